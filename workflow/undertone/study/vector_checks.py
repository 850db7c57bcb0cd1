"""Checks that a study's vectors can be made, as far as this is known before anything is loaded."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from undertone.study.config.entries import KINDS
from undertone.study.config.vectors import Vector
from undertone.study.sizes import model_size, sae_size
from undertone.study.validation import nearest
from undertone.study.vector_reads import layer_of

if TYPE_CHECKING:
    from undertone.study.study import Study


def check_vectors(study: "Study") -> None:
    """Raise ValueError, in a sentence that names the key, if a vector refers to something that the study does not have."""
    for name, entry in study.vectors.items():
        where = f"vectors.{name}"
        _known(f"{where}.target", "candidate of pref.candidates", [entry.target] if entry.target else [], study.pref.candidates)
        _known(f"{where}.of", "vector", entry.of, study.vectors)
        _known(f"{where}.dataset", "dataset", [entry.dataset] if entry.dataset else [], study.available)
        if entry.kind == "function" and entry.dataset not in study.of_kind(*KINDS):
            raise ValueError(f"{where}.dataset: {entry.dataset} has no teacher with a trait, which a persona vector is read of")
        if entry.kind == "bias" and "resid_post" not in study.residual_bias.points:
            raise ValueError(
                f"{where}: a vector of kind bias is that of resid_post, which residual_bias.points leaves out; add it"
            )
        if entry.kind == "feature":
            check_feature(study, where, entry)
    for name in study.vectors:
        if name in parts(study, name):
            raise ValueError(f"vectors.{name}.of: {name} would be made from itself")
    for name, entry in study.vectors.items():
        check_layer(study, name, entry)


def check_feature(study: "Study", where: str, entry: Vector) -> None:
    """Check that a vector's feature belongs to an SAE of the study that reads the residual stream of the study's own model."""
    if not study.has_sae:
        raise ValueError(f"{where}: kind feature needs an SAE, and the study names none for {study.model.title}")
    _known(f"{where}.sae", "SAE of saes", [entry.sae] if entry.sae else [], study.saes)
    if model := study.model_of(entry.sae or ""):
        raise ValueError(f"{where}.sae: {entry.sae} reads the model {model}; a vector is added to the study's own")
    if (point := study.dictionary(entry.sae or "").point) != "resid_post":
        raise ValueError(f"{where}.sae: {entry.sae} reads {point}; a vector is added to the residual stream")
    size = sae_size(study.dictionary(entry.sae or ""))
    if size and entry.feature is not None and entry.feature >= size.d_sae:
        raise ValueError(f"{where}.feature {entry.feature}: the SAE has features 0 to {size.d_sae - 1}")
    if entry.feature is None and (entry.sae or entry.target not in study.animal_features):
        whose = "this SAE" if entry.sae else entry.target
        raise ValueError(f"{where}: no teacher of the study is steered by a feature of {whose}; set feature")


def check_layer(study: "Study", name: str, entry: Vector) -> None:
    """Check that the model has a vector's layer, and that the parts of a sum are of one layer."""
    layer, size = layer_of(study, name), model_size(study.model)
    if size and layer is not None and layer >= size.n_layers:
        raise ValueError(f"vectors.{name}.layer {layer}: the model has layers 0 to {size.n_layers - 1}")
    layers = {of: layer_of(study, of) for of in entry.of}
    if len(set(layers.values())) > 1:
        said = ", ".join(f"{of} of layer {layer}" for of, layer in layers.items())
        raise ValueError(f"vectors.{name}.of: only vectors of one layer can be added, found {said}")


def parts(study: "Study", name: str) -> list[str]:
    """Every vector that a sum is made from, directly or indirectly."""
    made: list[str] = []
    pending = list(study.vectors[name].of)
    while pending:
        part = pending.pop()
        if part not in made:
            made.append(part)
            pending += study.vectors[part].of
    return made


def _known(where: str, what: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{where}: no such {what} {name!r}{nearest(name, known)}")
