"""Sparse decompositions of a vector into unit rows of a dictionary: greedy, lasso, non-negative, by cosine alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import nnls
from sklearn.linear_model import lars_path


@dataclass(frozen=True)
class Sparse:
    """Rows of a dictionary and their weights, by falling size."""

    rows: Int[np.ndarray, " k"]
    weights: Float[np.ndarray, " k"]

    def vector(self, dictionary: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " d"]:
        """The weighted sum of the rows."""
        return self.weights @ dictionary[self.rows]

    def top(self, k: int) -> "Sparse":
        """Keep the `k` greatest weights, unchanged."""
        return Sparse(self.rows[:k], self.weights[:k])


Method = Callable[[Float[np.ndarray, "n d"], Float[np.ndarray, " d"], Sequence[int]], list[Sparse]]


def by_size(rows: Int[np.ndarray, " k"], weights: Float[np.ndarray, " k"]) -> Sparse:
    """Sort rows by size of their weight, the greatest first; drop those without a weight."""
    order = np.argsort(-np.abs(weights), kind="stable")
    order = order[weights[order] != 0]
    return Sparse(rows[order], weights[order])


def explained(vector: Float[np.ndarray, " d"], part: Float[np.ndarray, " d"]) -> float:
    """Return the share of a vector's squared norm that a part of it explains; below 0 if the part is farther away than 0 is."""
    rest = vector - part
    return 1 - float(rest @ rest) / float(vector @ vector)


def least_squares(dictionary: Float[np.ndarray, "n d"], rows: Int[np.ndarray, " k"], vector: Float[np.ndarray, " d"]) -> Sparse:
    """Return the weights of some rows that fit a vector best."""
    return by_size(rows, np.linalg.lstsq(dictionary[rows].T, vector, rcond=None)[0])


def signed(dictionary: Float[np.ndarray, "n d"], vector: Float[np.ndarray, " d"], sizes: Sequence[int]) -> list[Sparse]:
    """Decompose by orthogonal matching pursuit, with weights of either sign, for each number of rows."""
    return _greedy(dictionary, vector, sizes, least_squares, np.abs)


def nonnegative(dictionary: Float[np.ndarray, "n d"], vector: Float[np.ndarray, " d"], sizes: Sequence[int]) -> list[Sparse]:
    """Decompose as `signed` does, with rows that point along what is left, and weights of at least 0."""

    def solve(dictionary: Float[np.ndarray, "n d"], rows: Int[np.ndarray, " k"], vector: Float[np.ndarray, " d"]) -> Sparse:
        return by_size(rows, nnls(dictionary[rows].T, vector)[0])

    return _greedy(dictionary, vector, sizes, solve, lambda along: along)


def lasso(dictionary: Float[np.ndarray, "n d"], vector: Float[np.ndarray, " d"], sizes: Sequence[int]) -> list[Sparse]:
    """Return the lasso path's first supports of each size, with weights refitted by least squares."""
    limit = min(max(sizes), *dictionary.shape)
    _, _, path = lars_path(dictionary.T, vector, method="lasso", max_iter=4 * limit)
    counts = (path != 0).sum(0)
    made = []
    for size in sizes:
        steps = np.flatnonzero(counts <= size)
        support = np.flatnonzero(path[:, steps[np.argmax(counts[steps])]])
        made.append(least_squares(dictionary, support, vector) if len(support) else Sparse(support, np.zeros(0)))
    return made


def nearest(dictionary: Float[np.ndarray, "n d"], vector: Float[np.ndarray, " d"], sizes: Sequence[int]) -> list[Sparse]:
    """Return the rows of greatest |cosine|, with weights fitted by least squares: rows that are alike are taken together."""
    order = np.argsort(-np.abs(dictionary @ vector), kind="stable")
    return [least_squares(dictionary, order[:size], vector) for size in sizes]


METHODS: dict[str, Method] = {"OMP": signed, "lasso": lasso, "non-negative": nonnegative, "cosine": nearest}


def _greedy(
    dictionary: Float[np.ndarray, "n d"],
    vector: Float[np.ndarray, " d"],
    sizes: Sequence[int],
    solve: Callable[..., Sparse],
    score: Callable[[Float[np.ndarray, " n"]], Float[np.ndarray, " n"]],
) -> list[Sparse]:
    """Choose row after row, each the highest scoring along what the rows before it leave; refit all weights each time."""
    chosen: list[int] = []
    current = Sparse(np.zeros(0, dtype=int), np.zeros(0))
    by_number = {0: current}
    for n in range(1, min(max(sizes), *dictionary.shape) + 1):
        along = score(dictionary @ (vector - current.vector(dictionary)))
        along[chosen] = -np.inf
        best = int(np.argmax(along))
        if along[best] <= 1e-12 * np.linalg.norm(vector):
            break
        chosen.append(best)
        by_number[n] = current = solve(dictionary, np.array(chosen), vector)
    return [by_number[min(size, max(by_number))] for size in sizes]
