"""Ranks, 1 the highest. Equal values share the mean of their places, so that a tie is neither a success nor a failure."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from scipy.stats import rankdata


def midranks(values: ArrayLike) -> Float[np.ndarray, "..."]:
    """Rank each value along the last axis. NaN, which means no statement, gets no rank and takes up none."""
    return rankdata(-np.asarray(values, dtype=float), axis=-1, nan_policy="omit")


def rank(values: ArrayLike, index: int) -> float:
    """Return the rank of one of `values`, which have one axis."""
    return float(midranks(values)[index])


def rank_of(values: Mapping[str, float], name: str | None) -> float | None:
    """Return the rank of a name's value among all; None for a name that has none, and if it is the only one."""
    if name is None or name not in values or len(values) < 2:
        return None
    return rank([*values.values()], [*values].index(name))


def place_in(order: Sequence[tuple[str, float]], name: str) -> float | None:
    """Return the place of a name in an order of (name, value), from 1; None for a name that is not in it.

    Neighbours of equal value share the mean of their places. Only neighbours are compared: if an order is made in rounds, a
    value of an earlier round may be higher than one of a later round.
    """
    group = [0] * min(1, len(order))
    for (_, before), (_, after) in pairwise(order):
        group.append(group[-1] - (before != after))
    names = [each for each, _ in order]
    return rank(group, names.index(name)) if name in names else None


def auroc(values: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Return the probability that a positive's value is higher than a negative's; a tie counts half (Mann & Whitney 1947).

    NaN if all or none are positive.
    """
    n = int(positive.sum())
    if n in (0, len(values)):
        return float("nan")
    return float((rankdata(values)[positive].mean() - (n + 1) / 2) / (len(values) - n))
