"""A power law in the width and training tokens of SAEs, and the best use of a compute budget."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import least_squares

from undertone.lab.training_cost import flops

# Bounds of the fitted parameters: log E, log A and log B at the grid's middle, and the exponents.
LOW, HIGH = (-30.0, -30.0, -30.0, 0.0, 0.0), (1.0, 10.0, 10.0, 4.0, 4.0)
# Factor beyond the grid up to which the best width and tokens of a budget are reported.
BEYOND = 4.0
# Most evaluations of a fit, which would take long if the unexplained variance does not fall.
STEPS = 60
# Quantiles at the ends of each interval.
TAILS = (0.025, 0.975)


@dataclass(frozen=True)
class Law:
    """1 − EV = E + A N^−a + B T^−b: N features, T tokens, EV the explained variance (after Hoffmann et al. 2022)."""

    E: float
    A: float
    a: float
    B: float
    b: float

    def at(self, n: Float[np.ndarray, "*k"], tokens: Float[np.ndarray, "*k"]) -> Float[np.ndarray, "*k"]:
        """Return the unexplained variance for `n` features and `tokens` tokens."""
        return np.asarray(self.E + self.A * n**-self.a + self.B * tokens**-self.b)


def fitted(
    n: Float[np.ndarray, " k"], tokens: Float[np.ndarray, " k"], missed: Float[np.ndarray, " k"], starts: int, seed: int
) -> Law:
    """Fit the law by least squares in the logarithm of `missed`, the runs' unexplained variance; keep the best of `starts`."""
    rng = np.random.default_rng(seed)
    # Relative to the middle of the grid, so that scales and exponents do not trade off against each other.
    middle = np.exp(np.log(n).mean()), np.exp(np.log(tokens).mean())
    x, y, target = n / middle[0], tokens / middle[1], np.log(missed)

    def residuals(values: Float[np.ndarray, " 5"]) -> Float[np.ndarray, " k"]:
        e, big_a, big_b, a, b = values
        return np.log(np.exp(e) + np.exp(big_a) * x**-a + np.exp(big_b) * y**-b) - target

    def slopes(values: Float[np.ndarray, " 5"]) -> Float[np.ndarray, "k 5"]:
        e, big_a, big_b, a, b = values
        parts = np.exp(e), np.exp(big_a) * x**-a, np.exp(big_b) * y**-b
        columns = [np.full(len(x), parts[0]), parts[1], parts[2], -parts[1] * np.log(x), -parts[2] * np.log(y)]
        return np.stack(columns, axis=1) / sum(parts)[:, None]

    best = None
    for _ in range(starts):
        share = np.log(rng.dirichlet(np.ones(3)) * missed.mean() + 1e-12)
        start = np.r_[share, rng.uniform(0.1, 1.5, 2)]
        fit = least_squares(residuals, start, slopes, bounds=(LOW, HIGH), max_nfev=STEPS)
        best = fit if best is None or fit.cost < best.cost else best
    assert best is not None
    e, big_a, big_b, a, b = best.x
    return Law(
        float(np.exp(e)), float(np.exp(big_a) * middle[0] ** a), float(a), float(np.exp(big_b) * middle[1] ** b), float(b)
    )


def with_intervals(
    n: Float[np.ndarray, " k"],
    tokens: Float[np.ndarray, " k"],
    missed: Float[np.ndarray, " k"],
    starts: int,
    bootstraps: int,
    seed: int,
) -> tuple[Law, dict[str, Any]]:
    """Fit the law; return it and its numbers: E, a and b with 95 % bootstrap intervals over runs, A and B without.

    `error` is the root mean square error in logs.
    """
    law = fitted(n, tokens, missed, starts, seed)
    rng = np.random.default_rng(seed + 1)
    draws: list[dict[str, float]] = []
    while len(draws) < bootstraps:
        some = rng.integers(0, len(n), len(n))
        if min(len(np.unique(n[some])), len(np.unique(tokens[some]))) >= 3:  # fewer do not determine a curve of three numbers
            draws.append(asdict(fitted(n[some], tokens[some], missed[some], max(1, starts // 3), seed)))
    ends = {name: np.quantile([draw[name] for draw in draws], TAILS) for name in ("E", "a", "b")}
    body: dict[str, Any] = {name: {"value": getattr(law, name), "ci95": end.tolist()} for name, end in ends.items()}
    error = float(np.sqrt(np.mean(np.log(law.at(n, tokens) / missed) ** 2)))
    return law, {**body, "A": law.A, "B": law.B, "runs": len(n), "error": error}


def forecast(
    n: Float[np.ndarray, " k"], tokens: Float[np.ndarray, " k"], missed: Float[np.ndarray, " k"], starts: int, seed: int
) -> dict[str, Any]:
    """Forecast the runs of most tokens by a law of all others; return the ratio of measured to forecast, mean and range."""
    last = tokens == tokens.max()
    if len(np.unique(tokens[~last])) < 3:
        return {"tokens": int(tokens.max()), "ratio": None, "least": None, "greatest": None}
    law = fitted(n[~last], tokens[~last], missed[~last], starts, seed)
    ratio = missed[last] / law.at(n[last], tokens[last])
    return {
        "tokens": int(tokens.max()),
        "ratio": float(ratio.mean()),
        "least": float(ratio.min()),
        "greatest": float(ratio.max()),
    }


def product(
    n: Float[np.ndarray, " k"],
    tokens: Float[np.ndarray, " k"],
    missed: Float[np.ndarray, " k"],
    bootstraps: int,
    seed: int,
) -> dict[str, Any]:
    """Fit another law, 1 − EV = C N^−a T^−b, by linear least squares in logs; return its exponents, error and forecast.

    If the two laws' exponents differ, they reflect the form of the law and not the trainings.
    """

    def coefficients(some: Int[np.ndarray, " m"]) -> Float[np.ndarray, " 3"]:
        return np.linalg.lstsq(design[some], np.log(missed[some]), rcond=None)[0]

    design = np.stack([np.ones(len(n)), -np.log(n), -np.log(tokens)], axis=1)
    own, rng = coefficients(np.arange(len(n))), np.random.default_rng(seed)
    ends = np.quantile([coefficients(rng.integers(0, len(n), len(n))) for _ in range(bootstraps)], TAILS, axis=0)
    last = tokens == tokens.max()
    off = np.log(missed[last]) - design[last] @ coefficients(np.flatnonzero(~last))
    exponents = {name: {"value": float(own[k]), "ci95": ends[:, k].tolist()} for k, name in ((1, "a"), (2, "b"))}
    error = float(np.sqrt(np.mean((np.log(missed) - design @ own) ** 2)))
    return {**exponents, "error": error, "forecast": float(np.exp(off).mean())}


def best_spent(
    law: Law, d_model: int, budgets: Sequence[float], n: Sequence[int], tokens: Sequence[int]
) -> list[dict[str, Any]]:
    """Return, for each budget of operations, the width and tokens of least unexplained variance.

    They are null if either is more than `BEYOND` times beyond the grid, or the law has no such trade-off.
    """
    rows = []
    for budget in budgets:
        product = budget / flops(1, 1, d_model)
        best = {"flops": float(budget), "d_sae": None, "tokens": None, "unexplained": None}
        if law.a > 0 and law.b > 0 and law.A > 0 and law.B > 0:
            # dL/dN = 0 with T = product / N.
            wide = float((law.a * law.A / (law.b * law.B) * product**law.b) ** (1 / (law.a + law.b)))
            some = product / wide
            if within(wide, n) and within(some, tokens):
                said = float(law.at(np.array(wide), np.array(some)))
                best |= {"d_sae": round(wide), "tokens": round(some), "unexplained": said}
        rows.append(best)
    return rows


def within(value: float, grid: Sequence[int]) -> bool:
    """Return whether a value is no more than `BEYOND` times beyond those of the grid."""
    return min(grid) / BEYOND <= value <= max(grid) * BEYOND
