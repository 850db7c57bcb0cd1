"""Scores of features against null vectors: z of each, and a p-value that holds for all features together."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from undertone.stats.stats import p_value


class Scores(NamedTuple):
    """Scores by feature: `z`, the change minus the null vectors' mean, in their deviations, and the family-wise `p_family`."""

    z: Float[np.ndarray, " d_sae"]
    p_family: Float[np.ndarray, " d_sae"]


def against_nulls(change: Float[np.ndarray, " d_sae"], nulls: Float[np.ndarray, "n_nulls d_sae"]) -> Scores:
    """Score a vector's changes. Each null vector is scored against the others, as the vector is scored against all of them.

    The deviation of the median feature is added in quadrature (after Tusher, Tibshirani & Chu 2001): a feature that no null
    vector happens to move would otherwise have none.
    """
    greatest = [np.abs(scaled(null, np.delete(nulls, k, axis=0))).max() for k, null in enumerate(nulls)]
    z = scaled(change, nulls)
    return Scores(z, np.asarray(p_value(np.abs(z), greatest)))


def scaled(change: Float[np.ndarray, " d_sae"], nulls: Float[np.ndarray, "n_nulls d_sae"]) -> Float[np.ndarray, " d_sae"]:
    """Return changes minus the null vectors' mean, in units of their deviations."""
    sd = nulls.std(axis=0, ddof=1)
    floor = float(np.median(sd[sd > 0])) if (sd > 0).any() else 0.0
    size = np.sqrt(sd**2 + floor**2)
    moved = change - nulls.mean(axis=0)
    return np.divide(moved, size, out=np.zeros_like(moved), where=size > 0)
