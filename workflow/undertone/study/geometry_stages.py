"""The stages of concept geometry, one row each, as in `stages`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from undertone.study import dataset_settings as given
from undertone.study import reads, vector_reads
from undertone.study.node import Node
from undertone.study.stage import Stage

if TYPE_CHECKING:
    from undertone.study.study import Study


def tree_file(study: "Study", node: Node) -> list[str]:
    """The file of words of a hierarchy; the integers have none."""
    file = study.hierarchies[node.variant].file
    return [file] if file else []


def own_sae(study: "Study", node: Node) -> Iterator[Node]:
    """The study's own SAE, if it has one; the features of words are read in it."""
    if study.has_sae:
        yield Node("sae", None, "")


def contexts(study: "Study", node: Node) -> dict[str, Any]:
    """The texts that a hierarchy's words are read in, and whether they are integers."""
    entry = study.hierarchies[node.variant]
    return {"contexts": entry.contexts, "numbers": entry.numbers}


GEOMETRY = {
    "hierarchy": Stage(
        ("hierarchy",),
        (reads.own_model, vector_reads.text, own_sae),
        files=tree_file,
        settings=(contexts, given.max_norm),
        shared=True,
        variants="hierarchies",
    ),
    "hierarchy_plot": Stage(after=("hierarchy",), shared=True, variants="hierarchies"),
}
