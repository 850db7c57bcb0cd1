"""Whether a study's pairs of SAEs can be compared, as far as that is known before anything is loaded."""

from typing import TYPE_CHECKING

from undertone.study.validation import nearest

if TYPE_CHECKING:
    from undertone.study.study import Study


def check_pairs(study: "Study") -> None:
    """Raise ValueError, in a sentence that names the key, unless both sides of each pair are SAEs of the study."""
    if study.pairs and not study.has_sae:
        raise ValueError(f"pairs: the study has no SAE for {study.model.title}; describe one under sae")
    for name, pair in study.pairs.items():
        if pair.datasets and (model := study.model_of(pair.a)):
            raise ValueError(
                f"pairs.{name}.datasets: side a has this study's own datasets, and SAE {pair.a} reads the model {model}; "
                "exchange a and b"
            )
        for side in ("a", "b"):
            if (sae := getattr(pair, side)) and sae not in study.saes:
                raise ValueError(f"pairs.{name}.{side}: no such SAE of saes {sae!r}{nearest(sae, study.saes)}")
        points = [study.dictionary(sae).point for sae in (pair.a, pair.b)]
        if points[0] != points[1]:
            raise ValueError(
                f"pairs.{name}: a reads {points[0]} and b {points[1]}; only SAEs of one kind of point are compared"
            )
        if pair.datasets and points[0] != "resid_post":
            raise ValueError(f"pairs.{name}.datasets: datasets are compared at resid_post, and the SAEs read {points[0]}")
