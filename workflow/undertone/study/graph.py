"""Which stages come before a stage, and which stages a dataset has."""

from collections.abc import Iterator

from undertone.study.node import Node
from undertone.study.stages import STAGES
from undertone.study.study import Study


def ancestors(study: Study, node: Node) -> list[Node]:
    """Return a stage and all stages before it, the earliest first."""
    visited: dict[Node, None] = {}

    def visit(each: Node) -> None:
        if each not in visited:
            for earlier in before(study, each):
                visit(earlier)
            visited[each] = None

    visit(node)
    return list(visited)


def before(study: Study, node: Node) -> Iterator[Node]:
    """The stages that a stage reads."""
    for each in _named(study, node):
        if has(study, each.stage, each.dataset):
            yield _made_here(study, each)


def has(study: Study, stage: str, dataset: str | None) -> bool:
    """Whether a dataset has a stage: without an SAE none has features, and not every dataset has a known teacher."""
    return STAGES[stage].only(study, dataset)


def read_by(study: Study, stage: str) -> list[str]:
    """The datasets that a comparison reads: those that have what it is about."""
    return STAGES[stage].datasets(study)


def _named(study: Study, node: Node) -> Iterator[Node]:
    """The stages that a row of the table names, whether the study has them or not."""
    stage = STAGES[node.stage]
    for parent in stage.after:
        if callable(parent):
            yield from parent(study, node)
        else:
            yield Node(parent, node.dataset, node.variant)
    if control := study.control(node.dataset) if node.dataset else None:
        yield from (Node(parent, control, node.variant) for parent in stage.after_control)
    yield from (Node(parent, dataset) for parent in stage.after_all for dataset in stage.datasets(study))


def _made_here(study: Study, node: Node) -> Node:
    """The stage of this study that makes the result of a stage.

    Its dataset is None if one result serves the whole study, and its variant is empty if the stage has no variants.
    """
    made = STAGES[node.stage].made_by(study, node)
    stage = STAGES[made.stage]
    return Node(made.stage, None if stage.shared else made.dataset, made.variant if stage.variants else "")
