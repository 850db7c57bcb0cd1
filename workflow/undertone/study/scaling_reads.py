"""The runs that a scaling law is of: their names, what each reads and how it trains."""

from collections.abc import Iterator
from typing import Any

from undertone.study.node import Node
from undertone.study.study import Study

GAUSSIAN = "gaussian"


def run_names(study: Study) -> list[str]:
    """`TOKENS-SEED` of every run, then `TOKENS-SEED-gaussian` of the controls."""
    scaling = study.scaling
    own = [f"{tokens}-{seed}" for tokens in scaling.tokens for seed in scaling.seeds]
    return own + [f"{tokens}-{seed}-{GAUSSIAN}" for tokens in scaling.tokens for seed in scaling.controls]


def runs(study: Study, node: Node) -> Iterator[Node]:
    """Every run."""
    yield from (Node("scaling_runs", None, name) for name in run_names(study))


def read_by_runs(study: Study, node: Node) -> Iterator[Node]:
    """The base model, what the SAE of a named model is trained on, and the text that measures."""
    yield Node("model")
    if study.model.named:
        yield Node("text")
    yield Node("chats")


def corpus(study: Study, node: Node) -> list[str]:
    """The text that the embedded model is trained on, and SAEs of it."""
    return [] if study.model.named else [study.model.embedded.corpus]


def run(study: Study, node: Node) -> dict[str, Any]:
    """What a run is, and how the study trains SAEs, whatever their size."""
    tokens, seed, *kind = node.variant.split("-")
    scaling, keys = study.scaling, ("layer", "k", "batch_size", "lr", "max_norm", "context")
    about = {"tokens": int(tokens), "seed": int(seed), "gaussian": kind == [GAUSSIAN]}
    return {
        "run": {**about, "d_sae": scaling.d_sae, "revived": scaling.revived, "held_out": scaling.held_out},
        "sae": {key: value for key, value in study.sae.stamped().items() if key in keys},
    }


def law(study: Study, node: Node) -> dict[str, Any]:
    """What a law is fitted with."""
    scaling = study.scaling
    return {
        "law": {"starts": scaling.starts, "bootstraps": scaling.bootstraps, "budgets": scaling.budgets, "seed": scaling.seed}
    }
