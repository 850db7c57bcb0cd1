"""Inputs and settings of the stages of steering vectors, by the kind of the vector."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from undertone.study.config.vectors import Vector
from undertone.study.node import Node
from undertone.study.sizes import sae_size

if TYPE_CHECKING:
    from undertone.study.study import Study


def entry_of(study: "Study", node: Node) -> Vector:
    """The vector that a stage is about."""
    return study.vectors[node.variant.partition("/")[0]]


def asks_personas(entry: Vector) -> bool:
    """Whether a vector is computed from the study's own questions under personas."""
    return entry.kind in ("contrast", "pca") and not entry.positive


def target_of(study: "Study", entry: Vector) -> str | None:
    """The animal whose preference a vector is to raise."""
    return entry.target or (study.target(entry.dataset) if entry.dataset else None)


def layer_of(study: "Study", name: str) -> int | None:
    """The layer of a vector; None if settings do not say it: an SAE of the registry tells its layer only when it is loaded."""
    entry = study.vectors[name]
    if entry.kind == "sum":
        return layer_of(study, next(iter(entry.of)))
    if entry.kind == "feature":
        size = sae_size(study.dictionary(entry.sae or ""))
        return size.layer if size else None
    return 1 if entry.layer is None else entry.layer


def text(study: "Study", node: Node) -> Iterator[Node]:
    """Text that nothing was trained on, if the study has an SAE; otherwise neutral texts are read."""
    if study.has_sae:
        yield Node("chats")


def personas(study: "Study", node: Node) -> Iterator[Node]:
    """The number prompts, if the vector is computed from them under personas."""
    if asks_personas(entry_of(study, node)):
        yield Node("prompts")


def own_vector(study: "Study", node: Node) -> Iterator[Node]:
    """The vector that is decomposed; the variant is `VECTOR/SAE`, or `VECTOR` for the study's own SAE."""
    yield Node("vector", None, node.variant.partition("/")[0])


def own_dose(study: "Study", node: Node) -> Iterator[Node]:
    """The dose of the vector that is decomposed."""
    yield Node("dose", None, node.variant.partition("/")[0])


def own_sae(study: "Study", node: Node) -> Iterator[Node]:
    """The SAE that the vector is decomposed in."""
    yield Node("sae", None, node.variant.partition("/")[2])


def own_teacher(study: "Study", node: Node) -> Iterator[Node]:
    """The teacher that was steered by a feature of the SAE in which the vector is decomposed."""
    vector, _, sae = node.variant.partition("/")
    if not sae and (dataset := steered_dataset(study, vector)):
        yield Node("steer", dataset)


def steered_dataset(study: "Study", vector: str) -> str | None:
    """The dataset from which a vector, or its only such part, is recovered, if its teacher is steered by a feature."""
    entry = study.vectors[vector]
    datasets = {of for name in entry.of if (of := steered_dataset(study, name))}
    if entry.dataset and study.kind(entry.dataset) == "steer":
        teacher: Any = study.section("teacher", entry.dataset)
        datasets = {entry.dataset} if teacher.steer.vector == "feature" else set()
    return datasets.pop() if len(datasets) == 1 else None


def later_saes(study: "Study", node: Node) -> Iterator[Node]:
    """The SAEs of the vector's layer and of later ones."""
    yield from (Node("sae", None, name) for name in saes_after(study, node.variant))


def saes_after(study: "Study", vector: str) -> list[str]:
    """The SAEs of the study's own model at a vector's layer or later, as far as the settings say their layers."""
    layer = layer_of(study, vector)
    return [name for name, own in layers_of_saes(study).items() if layer is not None and own >= layer]


def layers_of_saes(study: "Study") -> dict[str, int]:
    """The layers of the SAEs of the study's own residual stream, as far as the settings say them; "" is the study's own SAE."""
    names = [name for name in ["", *study.saes] if study.reads_alike(name, "")] if study.has_sae else []
    return {name: size.layer for name in names if (size := sae_size(study.dictionary(name)))}


def decompositions(study: "Study") -> list[tuple[str, str]]:
    """(vector, SAE) of each vector and each SAE of the study's own model at its layer; "" is the study's own SAE."""
    if not study.has_sae:
        return []
    layers = layers_of_saes(study)
    pairs = [(vector, sae) for vector in study.vectors for sae, layer in layers.items() if layer_of(study, vector) == layer]
    # An SAE of the registry tells its layer only when it is loaded, but a vector that is its feature has the same layer.
    own = [(name, entry.sae or "") for name, entry in study.vectors.items() if entry.kind == "feature"]
    return list(dict.fromkeys([*pairs, *own]))


def sources(study: "Study", node: Node) -> Iterator[Node]:
    """The stages that a vector is made from."""
    entry = entry_of(study, node)
    yield from personas(study, node)
    if entry.kind == "feature":
        yield Node("sae", None, entry.sae or "")
        if entry.feature is None:
            yield Node("steer", study.animal_features[str(entry.target)])
    if entry.kind in ("bias", "function"):
        yield Node("residual_bias" if entry.kind == "bias" else "differences", entry.dataset)
    yield from (Node("vector", None, name) for name in entry.of)


def files(study: "Study", node: Node) -> list[str]:
    """The user's files that a vector is made from, and neutral texts if there is no other text."""
    entry = entry_of(study, node)
    asked = [study.pref.questions] if asks_personas(entry) else []
    return [*asked, *([entry.file] if entry.file else []), *([] if study.has_sae else [study.differences.neutral])]


def files_of_effects(study: "Study", node: Node) -> list[str]:
    """The questions at which preferences are measured, and neutral texts if there is no other text."""
    return [study.pref.questions, *([] if study.has_sae else [study.differences.neutral])]


def questions(study: "Study", node: Node) -> list[str]:
    """The questions of the preference."""
    return [study.pref.questions]


def built_of(study: "Study", node: Node) -> dict[str, Any]:
    """How many number prompts a vector may be built from; these prompts are left out when its effects are read."""
    return {"used_prompts": study.vector.prompts}


def repeated(study: "Study", node: Node) -> dict[str, Any]:
    """How a contrast is made that is read and added at every layer; None for other kinds, and unless `dose.layers` is `all`."""
    if study.dose.layers == "own" or entry_of(study, node).kind not in ("contrast", "pca"):
        return {"contrast": None}
    return {"contrast": {**entry(study, node), "vector": study.vector.stamped()}}


def entry(study: "Study", node: Node) -> dict[str, Any]:
    """A vector's entry and target; if it is computed under personas, also the candidates and the wording of personas."""
    own = entry_of(study, node)
    settings: dict[str, Any] = {"entry": own.stamped(), "target": target_of(study, own)}
    if asks_personas(own):
        teacher = study.teacher.stamped()
        settings["personas"] = {
            "candidates": study.pref.candidates,
            "teacher": {key: teacher[key] for key in ("persona", "separator")},
        }
    return settings
