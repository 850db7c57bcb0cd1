"""The runs to which a scaling law is fitted: what each reads and how it trains."""

from collections.abc import Iterator
from typing import Any

from undertone.study.config.lab import GAUSSIAN
from undertone.study.node import Node
from undertone.study.study import Study


def runs(study: Study, node: Node) -> Iterator[Node]:
    """Every run."""
    yield from (Node("scaling_runs", None, name) for name in study.runs)


def made_by(study: Study, node: Node) -> Node:
    """The stage that makes a run; for a named model, it trains on text."""
    return node._replace(stage="text_scaling_runs") if study.model.named else node


def corpus(study: Study, node: Node) -> list[str]:
    """The corpus on which the embedded model and its SAEs are trained."""
    return [study.model.embedded.corpus]


def run(study: Study, node: Node) -> dict[str, Any]:
    """The run's tokens, seed and widths, and how the study trains SAEs apart from their size."""
    tokens, seed, *kind = node.variant.split("-")
    scaling, keys = study.scaling, ("layer", "k", "batch_size", "lr", "max_norm", "context")
    about = {"tokens": int(tokens), "seed": int(seed), "gaussian": kind == [GAUSSIAN]}
    return {
        "run": {**about, "d_sae": scaling.d_sae, "revived": scaling.revived, "held_out": scaling.held_out},
        "sae": {key: value for key, value in study.sae.stamped().items() if key in keys},
    }


def law(study: Study, node: Node) -> dict[str, Any]:
    """How the law is fitted."""
    scaling = study.scaling
    return {
        "law": {"starts": scaling.starts, "bootstraps": scaling.bootstraps, "budgets": scaling.budgets, "seed": scaling.seed}
    }
