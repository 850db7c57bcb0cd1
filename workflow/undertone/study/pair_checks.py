"""Checks that a study's pairs of SAEs can be compared, as far as this is known before anything is loaded."""

from typing import TYPE_CHECKING

from undertone.study.sizes import sae_size
from undertone.study.validation import nearest
from undertone.study.vector_reads import layer_of, target_of

if TYPE_CHECKING:
    from undertone.study.study import Study


def check_pairs(study: "Study") -> None:
    """Raise ValueError, in a sentence that names the key, unless each pair consists of comparable SAEs of the study."""
    if study.pairs and not study.has_sae:
        raise ValueError(f"pairs: the study has no SAE for {study.model.title}; describe one under sae")
    for name, pair in study.pairs.items():
        for side in ("a", "b"):
            if (sae := getattr(pair, side)) and sae not in study.saes:
                raise ValueError(f"pairs.{name}.{side}: no such SAE of saes {sae!r}{nearest(sae, study.saes)}")
        if pair.datasets and (model := study.model_of(pair.a)):
            raise ValueError(
                f"pairs.{name}.datasets: side a has this study's own datasets, and SAE {pair.a} reads the model {model}; "
                "exchange a and b"
            )
        points = [study.dictionary(sae).point for sae in (pair.a, pair.b)]
        if points[0] != points[1]:
            raise ValueError(
                f"pairs.{name}: a reads {points[0]} and b {points[1]}; only SAEs of one kind of point are compared"
            )
        if pair.datasets and points[0] != "resid_post":
            raise ValueError(f"pairs.{name}.datasets: datasets are compared at resid_post, and the SAEs read {points[0]}")
        if pair.vector:
            check_vector(study, name, pair.vector)


def check_vector(study: "Study", pair: str, vector: str) -> None:
    """Check that a pair's vector belongs to this study's own model, is of the layer of SAE a, and has a target."""
    where, a = f"pairs.{pair}.vector", study.pairs[pair].a
    if vector not in study.vectors:
        raise ValueError(f"{where}: no such vector of vectors {vector!r}{nearest(vector, study.vectors)}")
    if model := study.model_of(a):
        raise ValueError(
            f"{where}: vectors are of this study's own model, and SAE {a} reads the model {model}; exchange a and b"
        )
    if (point := study.dictionary(a).point) != "resid_post":
        raise ValueError(
            f"{where}: a vector is added at resid_post, and SAE {a} reads {point}, where the models would be turned"
        )
    if target_of(study, study.vectors[vector]) is None:
        raise ValueError(
            f"{where}: the vector {vector} has no target, whose preference could rise; set vectors.{vector}.target"
        )
    layer, size = layer_of(study, vector), sae_size(study.dictionary(a))
    if size and layer is not None and layer != size.layer:
        raise ValueError(
            f"{where}: the vector {vector} is of layer {layer}, and SAE {a or 'a'}, where the models are turned, of layer "
            f"{size.layer}; expected the same"
        )
