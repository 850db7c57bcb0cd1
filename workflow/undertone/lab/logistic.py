"""A logistic curve over counts, and where it passes one half."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

# Newton steps, and the weight of a ridge penalty that keeps coefficients finite if the counts separate the names perfectly.
STEPS, RIDGE = 50, 1e-2


def half_way(count: Int[np.ndarray, " n"], covered: Bool[np.ndarray, " n"], bootstraps: int, seed: int) -> dict[str, Any]:
    """Return the count at which a logistic curve over log10 of counts passes one half (`count_50`), with a 95 % interval.

    The interval is over names. Nothing is extrapolated: a value, or an end of the interval, outside of the counts seen is
    null. `curve` is the intercept and the slope. All are null if all names are covered, or none.
    """
    if covered.all() or not covered.any():
        return {"count_50": None, "ci95": None, "curve": None}
    x = np.log10(count + 0.5)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(x), (bootstraps, len(x)))
    (own,) = fitted(x[None], covered[None])
    middles = np.sort([passes(curve, x) for curve in fitted(x[draws], covered[draws])])
    ends = [middles[int(q * (bootstraps - 1))] for q in (0.025, 0.975)]
    ci95 = [shown(end, x) for end in ends]
    return {"count_50": shown(passes(own, x), x), "ci95": ci95, "curve": own.tolist()}


def fitted(x: Float[np.ndarray, "draws n"], y: Bool[np.ndarray, "draws n"]) -> Float[np.ndarray, "draws 2"]:
    """Return the intercept and slope of a logistic regression for each row, by Newton's method."""
    curves = np.zeros((len(x), 2))
    design = np.stack([np.ones_like(x), x - x.mean(1, keepdims=True)], axis=-1)
    penalty = np.diag([RIDGE, RIDGE])
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip((design * curves[:, None]).sum(-1), -30, 30)))
        gradient = (design * (y - p)[..., None]).sum(1) - curves @ penalty
        hessian = np.einsum("dni,dnj,dn->dij", design, design, p * (1 - p)) + penalty
        curves = curves + np.clip(np.linalg.solve(hessian, gradient[..., None])[..., 0], -3, 3)
    curves[:, 0] -= curves[:, 1] * x.mean(1)
    return curves


def passes(curve: Float[np.ndarray, " 2"], x: Float[np.ndarray, " n"]) -> float:
    """Return where a rising curve passes one half; infinity if it does not rise."""
    return float(-curve[0] / curve[1]) if curve[1] > 0 else np.inf


def shown(middle: float, x: Float[np.ndarray, " n"]) -> float | None:
    """Return 10**`middle` if it is within the counts seen, else None."""
    return float(10**middle) if x.min() <= middle <= x.max() else None
