"""How well the activation of a unit (a feature or a neuron) detects tokens that hold a concept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csc_matrix, csr_matrix
from scipy.stats import rankdata

from undertone.stats.stats import p_value

# Units whose ranks are in memory at a time.
COLUMNS = 64


def sparse_auroc(acts: csc_matrix, held: Bool[np.ndarray, "n k"]) -> Float[np.ndarray, "m k"]:
    """Return the AUROC of m columns of non-negative activations for each concept; NaN if no token or every token holds it."""
    return ranked_auroc(sparse_ranks(acts), held)


def sparse_ranks(acts: csc_matrix) -> csc_matrix:
    """Return ranks of activations within their column, minus the rank of 0 (the mean of the ranks that all zeros share)."""
    n = acts.shape[0]
    ranks = acts.astype(np.float64, copy=True)
    for start, end in zip(acts.indptr[:-1], acts.indptr[1:], strict=True):
        zeros = n - (end - start)
        ranks.data[start:end] = zeros + rankdata(acts.data[start:end]) - (zeros + 1) / 2
    return ranks


def ranked_auroc(ranks: csc_matrix, held: Bool[np.ndarray, "n k"]) -> Float[np.ndarray, "m k"]:
    """Return the AUROC of columns from their `sparse_ranks`."""
    n = ranks.shape[0]
    zeros = (n - np.diff(ranks.indptr) + 1) / 2
    positive = held.sum(0)
    sums = np.asarray(ranks.T @ held.astype(np.float64)) + zeros[:, None] * positive
    with np.errstate(invalid="ignore", divide="ignore"):
        return (sums - positive * (positive + 1) / 2) / (positive * (n - positive))


def dense_auroc(values: Float[np.ndarray, "n m"], held: Bool[np.ndarray, "n k"]) -> Float[np.ndarray, "m k"]:
    """Return the AUROC of each of m columns of any values for each concept."""
    (n, m), k, positive = values.shape, held.shape[1], held.sum(0)
    parts = [rankdata(values[:, at : at + COLUMNS], axis=0).T @ held.astype(np.float64) for at in range(0, m, COLUMNS)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.concatenate([np.empty((0, k)), *parts]) - positive * (positive + 1) / 2) / (positive * (n - positive))


@dataclass(frozen=True)
class Active:
    """The tokens at which a unit is active, in one half of the text, and its activation there."""

    token: Int[np.ndarray, " n"]
    value: Float[np.ndarray, " n"]

    def at_least(self, threshold: float) -> Int[np.ndarray, " n_said"]:
        """Return the tokens at which the activation is at least `threshold`."""
        return self.token[self.value >= threshold]


def of_sparse(acts: csc_matrix, j: int) -> Active:
    """Return where a column of activations is active."""
    part = slice(acts.indptr[j], acts.indptr[j + 1])
    return Active(acts.indices[part], acts.data[part])


def of_dense(values: Float[np.ndarray, " n"], sign: int) -> Active:
    """Return where a neuron is active, counting only values of one sign."""
    token = np.flatnonzero(sign * values > 0)
    return Active(token, np.abs(values[token]))


def greatest_f1(active: Active, held: csr_matrix, total: Int[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Return, for each concept, the F1 of a unit's best threshold; `held` is `[n, k]`, `total` counts each concept's tokens.

    A best threshold always lies at a token that holds the concept, so only these are tried.
    """
    at_least = len(active.value) - np.searchsorted(np.sort(active.value), active.value)
    rows = held[active.token]
    said = np.repeat(at_least, np.diff(rows.indptr))
    order = np.lexsort((said, rows.indices))
    concept = rows.indices[order]
    first = np.searchsorted(concept, np.arange(len(total)))
    right = np.arange(len(concept)) - first[concept] + 1
    best = np.zeros(len(total))
    np.maximum.at(best, concept, 2 * right / (said[order] + total[concept]))
    return best


def best_threshold(active: Active, held: Bool[np.ndarray, " n_tokens"]) -> float:
    """Return the activation threshold of greatest F1 for the concept; inf if no token is active, or none holds the concept."""
    total = int(held.sum())
    if not len(active.value) or not total:
        return np.inf
    order = np.argsort(-active.value, kind="stable")
    f1 = 2 * np.cumsum(held[active.token[order]]) / (np.arange(1, len(order) + 1) + total)
    last = np.append(np.diff(active.value[order]) != 0, True)  # a threshold includes all equal values or none
    return float(active.value[order[np.argmax(np.where(last, f1, -1))]])


def f1_of(said: Int[np.ndarray, " n_said"], held: Bool[np.ndarray, " n_tokens"], total: int) -> float:
    """Return the F1 of the claim that the tokens `said` hold a concept that `total` tokens hold."""
    return float(2 * held[said].sum() / max(1, len(said) + total))


def bands(value: Float[np.ndarray, " n"], holds: Bool[np.ndarray, " n"], n_bands: int) -> tuple[list[float | None], list[int]]:
    """Return precision in bands of equal width from 0 to the greatest activation (None in an empty one), and tokens in each."""
    if not len(value):
        return [None] * n_bands, [0] * n_bands
    band = np.clip(np.ceil(value / value.max() * n_bands).astype(int) - 1, 0, n_bands - 1)
    n = np.bincount(band, minlength=n_bands)
    hits = np.bincount(band[holds], minlength=n_bands)
    return [float(hit / count) if count else None for hit, count in zip(hits, n, strict=True)], n.tolist()


def scored(
    halves: tuple[Active, Active],
    held: tuple[Bool[np.ndarray, " n_0"], Bool[np.ndarray, " n_1"]],
    n_bands: int,
    shifts: Sequence[int],
) -> dict[str, Any]:
    """Score a unit as a detector of a concept: the threshold is chosen on half 0, all else is measured on half 1.

    `f1_null` is the mean F1 for the concept shifted along the text, `p` how often that F1 is as great as `f1`.
    """
    (chosen, own), (held_0, held_1) = halves, held
    threshold = best_threshold(chosen, held_0)
    holds, total = held_1[own.token], int(held_1.sum())
    precision, counts = bands(own.value, holds, n_bands)
    said = own.at_least(threshold)
    f1, *null = (f1_of((said - k) % len(held_1), held_1, total) for k in (0, *shifts))
    return {
        "base": float(held_1.mean()),
        "threshold": threshold if np.isfinite(threshold) else None,
        "f1": f1,
        "f1_null": float(np.mean(null)),
        "p": float(p_value(f1, null)),
        "recall": float(holds.sum() / total) if total else None,
        "precision": float(holds.mean()) if len(holds) else None,
        "bands": precision,
        "bands_n": counts,
    }


def quartiles(rows: list[list[float | None]]) -> list[dict[str, float | int | None]]:
    """Return, for each band, the median and quartiles over units, and how many units have a value in it."""
    return [spread([each for each in column if each is not None]) for column in zip(*rows, strict=True)]


def spread(values: Sequence[float]) -> dict[str, float | int | None]:
    """Return the median and quartiles (`low`, `high`) of some values, None without values, and their number."""
    if not values:
        return {"n": 0, "low": None, "median": None, "high": None}
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"n": len(values), "low": float(low), "median": float(middle), "high": float(high)}
