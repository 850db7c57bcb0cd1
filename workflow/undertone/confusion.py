"""Confusion matrices of datasets and animals: how well a metric tells which animal a dataset is about."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from undertone.config import KINDS
from undertone.ranks import midranks
from undertone.stats import p_value

PERMUTATIONS = 2_000
SEED = 0
# The columns of a table that holds such matrices, one row per metric, dataset and animal.
SCHEMA = {
    "metric": pl.String,
    "dataset": pl.String,
    "kind": pl.String,
    "target": pl.String,
    "animal": pl.String,
    "score": pl.Float64,
}


def as_table(
    metric: str, dataset: str, kind: str, target: str | None, animals: Sequence[str], scores: Sequence[float]
) -> pl.DataFrame:
    """One row of a matrix as a table."""
    who = {"metric": metric, "dataset": dataset, "kind": kind, "target": target}
    return pl.DataFrame([{**who, "animal": a, "score": s} for a, s in zip(animals, scores, strict=True)], SCHEMA)


def order(kind: str) -> int:
    """Kinds of teacher in their usual order."""
    return list(KINDS).index(kind) if kind in KINDS else len(KINDS)


def judged(matrix: np.ndarray, animals: Sequence[str], targets: dict[str, str], kinds: dict[str, str]) -> dict[str, Any] | None:
    """How well a confusion matrix `[n_datasets, n_animals]` tells the targets: over all datasets, and by kind of teacher.

    Datasets whose target is not among the animals are left out; None if no dataset, or one animal, is left.
    """
    known = [k for k, target in enumerate(targets.values()) if target in animals]
    if not known or len(animals) < 2:
        return None
    aim = np.array([list(animals).index(list(targets.values())[k]) for k in known])
    kind = np.array([kinds[list(targets)[k]] for k in known])
    scores = matrix[known]
    return {
        "animals": len(animals),
        "all": identified(scores, aim),
        "by_kind": {one: identified(scores[kind == one], aim[kind == one]) for one in sorted(set(kind.tolist()), key=order)},
    }


def identified(scores: np.ndarray, aim: np.ndarray) -> dict[str, Any]:
    """`raw`, and `centred` by column (less the mean of an animal's scores over datasets), which needs two datasets.

    Each: in how many datasets the target is `first`, its `mean_rank` (equal scores share the mean of their places) and `p`, the
    share of permutations of the targets whose mean rank is as low. A permutation renames an animal's datasets of all
    kinds alike, as they may resemble each other. `chance` holds what guessing gives.
    """
    n, n_animals = scores.shape
    names, of = np.unique(aim, return_inverse=True)
    renamed = np.tile(names, (1 + PERMUTATIONS, 1))
    renamed[1:] = np.random.default_rng(SEED).permuted(renamed[1:], axis=1)

    def read(values: np.ndarray) -> dict[str, Any]:
        ranks = midranks(values)[np.arange(n), renamed[:, of]]
        mean = ranks.mean(1)
        return {"first": int((ranks[0] == 1).sum()), "mean_rank": float(mean[0]), "p": float(p_value(-mean[0], -mean[1:]))}

    return {
        "datasets": n,
        "raw": read(scores),
        "centred": read(scores - scores.mean(0)) if n > 1 else None,
        "chance": {"first": n / n_animals, "mean_rank": (n_animals + 1) / 2},
    }
