"""Confusion matrices of datasets and animals: how well a metric tells which animal a dataset is about."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from undertone.stats.ranks import midranks
from undertone.stats.stats import p_value
from undertone.study.config.entries import KINDS

# Enough to fix p within ± .01 at p = .05; more would only narrow that. Any seed would do.
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
    """Return one row of a matrix as a table. A score of NaN, which means no statement, becomes null."""
    who = {"metric": metric, "dataset": dataset, "kind": kind, "target": target}
    rows = [{**who, "animal": animal, "score": score} for animal, score in zip(animals, scores, strict=True)]
    return pl.DataFrame(rows, SCHEMA).with_columns(pl.col("score").fill_nan(None))


def order(kind: str) -> int:
    """Return a kind of teacher's place in the usual order."""
    return list(KINDS).index(kind) if kind in KINDS else len(KINDS)


def judged(
    matrix: Float[np.ndarray, "n_datasets n_animals"], animals: Sequence[str], targets: dict[str, str], kinds: dict[str, str]
) -> dict[str, Any] | None:
    """Return how well a confusion matrix tells the targets: over all datasets, and by kind of teacher.

    A score of NaN is no statement on an animal. Datasets whose target is not among the animals are left out. So are those
    without a statement on their target, which are counted as `silent`. Returns None if no dataset, or only one animal, is left.
    """
    aims = {k: list(animals).index(target) for k, target in enumerate(targets.values()) if target in animals}
    known = [k for k, animal in aims.items() if np.isfinite(matrix[k, animal])]
    if not known or len(animals) < 2:
        return None
    aim = np.array([aims[k] for k in known])
    kind = np.array([kinds[list(targets)[k]] for k in known])
    scores = matrix[known]
    return {
        "animals": len(animals),
        "silent": len(aims) - len(known),
        "all": identified(scores, aim),
        "by_kind": {one: identified(scores[kind == one], aim[kind == one]) for one in sorted(set(kind.tolist()), key=order)},
    }


def identified(scores: Float[np.ndarray, "n_datasets n_animals"], aim: Int[np.ndarray, " n_datasets"]) -> dict[str, Any]:
    """Return `raw`, and `centred` by column (minus an animal's mean score over datasets), which needs two datasets.

    Each holds `first`, the number of datasets whose target comes first; the target's `mean_rank` (equal scores share the mean
    of their places); and `p`, the share of permutations of the targets whose mean rank is as low. A permutation renames an
    animal's datasets of all kinds alike, because they may resemble each other. `chance` holds what guessing among the animals
    with a score gives.
    """
    n, stated = len(scores), np.isfinite(scores)
    # `names` are the animals that are targets; `of` is each dataset's index in `names`. Row 0 of `renamed` keeps the names, the
    # others permute them.
    names, of = np.unique(aim, return_inverse=True)
    renamed = np.tile(names, (1 + PERMUTATIONS, 1))
    renamed[1:] = np.random.default_rng(SEED).permuted(renamed[1:], axis=1)

    def read(values: np.ndarray) -> dict[str, Any]:
        ranks = midranks(values)[np.arange(n), renamed[:, of]]
        mean = np.nanmean(ranks, axis=1)
        return {"first": int((ranks[0] == 1).sum()), "mean_rank": float(mean[0]), "p": float(p_value(-mean[0], -mean[1:]))}

    return {
        "datasets": n,
        "raw": read(scores),
        "centred": read(scores - np.nansum(scores, axis=0) / stated.sum(0).clip(min=1)) if n > 1 else None,
        "chance": {"first": float((1 / stated.sum(1)).sum()), "mean_rank": float((stated.sum(1) + 1).mean() / 2)},
    }
