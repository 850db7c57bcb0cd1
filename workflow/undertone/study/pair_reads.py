"""Inputs of the stages of pairs of SAEs: the model, the SAE and the text of both sides."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from undertone.study import vector_reads
from undertone.study.dataset_settings import exact_answers
from undertone.study.node import Node
from undertone.study.reads import model_of_sae, text_of_sae
from undertone.study.study import Study


def sides(study: Study, node: Node) -> Iterator[Node]:
    """The base model, the SAE, and the text in the model's tokens, for each side."""
    for sae in saes(study, node):
        yield from model_of_sae(study, sae)
        yield sae
        yield from text_of_sae(study, sae)


def models(study: Study, node: Node) -> Iterator[Node]:
    """The base model and the text in its tokens, for each side."""
    for sae in saes(study, node):
        yield from model_of_sae(study, sae)
        yield from text_of_sae(study, sae)


def saes(study: Study, node: Node) -> Iterator[Node]:
    """The SAEs of a pair."""
    pair = study.pairs[node.variant]
    yield from (Node("sae", None, name) for name in (pair.a, pair.b))


def maps(study: Study, node: Node) -> Iterator[Node]:
    """The maps of a pair's SAEs."""
    yield from (Node("map", None, sae.variant) for sae in saes(study, node))


def concepts_of_a(study: Study, node: Node) -> Iterator[Node]:
    """Which concepts the features of the first SAE hold."""
    yield Node("specificity", None, study.pairs[node.variant].a)


def recipe(study: Study, node: Node) -> dict[str, Any]:
    """How the study trains its SAE, without its size and its training data."""
    keys = ("architecture", "l1_coefficient", "l0_coefficient", "batch_size", "lr", "seed", "dead_steps")
    return {"sae": {key: value for key, value in study.sae.stamped().items() if key in keys}}


def entry(study: Study, node: Node) -> dict[str, Any]:
    """Which SAE is which side of a pair."""
    return {"pair": study.pairs[node.variant].model_dump(include={"a", "b"})}


def own_vector(study: Study, node: Node) -> Iterator[Node]:
    """The vector that is rotated into the other model, its dose in its own, and the prompts if it is made under personas."""
    if name := study.pairs[node.variant].vector:
        yield from (Node(stage, None, name) for stage in ("vector", "dose"))
        yield from vector_reads.personas(study, Node("vector", None, name))


def transplanted(study: Study, node: Node) -> dict[str, Any]:
    """That vector's entry, target and personas, and how it is rotated and measured; empty for a pair without a vector."""
    name = study.pairs[node.variant].vector
    if not name:
        return {}
    sections = {key: getattr(study, key).stamped() for key in ("matches", "rotation", "dose", "pref", "vector")}
    sections["pref"] = {key: sections["pref"][key] for key in exact_answers(study, node) & sections["pref"].keys()}
    return {**sections, **vector_reads.entry(study, Node("vector", None, name))}


def questions(study: Study, node: Node) -> list[str]:
    """The questions at which the vector's effect is measured, if the pair has a vector."""
    return [study.pref.questions] if study.pairs[node.variant].vector else []


def own_datasets(study: Study, node: Node) -> Iterator[Node]:
    """The animals' datasets with base samples, if the pair compares the datasets of its models."""
    if study.pairs[node.variant].datasets:
        yield from (Node("matched", animal) for animal in study.animals)


def other_datasets(study: Study, node: Node) -> list[str]:
    """The same files of the other model's study."""
    root = study.pairs[node.variant].datasets
    return [f"{root}/{animal}/matched.parquet" for animal in study.animals] if root else []


def lacking_datasets(study: Study, pair: str) -> str | None:
    """Say which datasets of the other study are missing for a pair, and how to make them; None if none is missing."""
    files = other_datasets(study, Node("across", None, pair))
    lacking = [file for file in files if not Path(file).is_file()]
    if not lacking:
        return None
    of = f", one of {len(lacking)} that are missing," if len(lacking) > 1 else ","
    return (
        f"pairs.{pair}.datasets: no such file {lacking[0]!r}{of} which the study of model b writes: run snakemake "
        f"{' '.join(lacking[:3])}{' …' if len(lacking) > 3 else ''} with that study's --configfile, or name fewer animals"
    )
