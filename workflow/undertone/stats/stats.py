"""Means, their intervals and tests. Each interval covers what its argument varies over: questions, or training seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from warnings import catch_warnings, filterwarnings

import numpy as np
from jaxtyping import Float, Real
from numpy.typing import ArrayLike
from scipy import optimize, special, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval and the two-sided p-value of its being 0, both from the same t test.

    `ci95` and `p` are None if the values show no spread, as a single value does not; `p` is also None if a value is not
    finite. Several values that are all 0 have an interval of no width, and p = 1.
    """

    mean: float
    ci95: tuple[float, float] | None
    p: float | None = None

    def as_dict(self) -> dict[str, object]:
        """Mean and interval as JSON."""
        return {"mean": self.mean, "ci95": list(self.ci95) if self.ci95 else None}

    def with_p(self) -> dict[str, object]:
        """Mean, interval and p-value as JSON."""
        return {**self.as_dict(), "p": self.p}


def mean_interval(values: Sequence[float] | Real[np.ndarray, " n"]) -> Estimate:
    """Return the mean of independent values with Student's t interval."""
    x = np.asarray(values, dtype=float)
    if np.ptp(x) == 0:
        return constant(float(x[0]), len(x))
    return tested(float(x.mean()), stats.ttest_1samp(x, 0))


def difference_interval(
    a: Sequence[float] | Real[np.ndarray, " n_a"], b: Sequence[float] | Real[np.ndarray, " n_b"]
) -> Estimate:
    """Return the mean of `a` minus that of `b`, independent samples of any variance, with Welch's t interval."""
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if min(len(x), len(y)) < 2 or (np.ptp(x) == 0 and np.ptp(y) == 0):
        return constant(float(x.mean() - y.mean()), min(len(x), len(y)))
    with catch_warnings():
        # One side may well be constant, as under a control's bias that is 0.
        filterwarnings("ignore", "Precision loss", RuntimeWarning)
        return tested(float(x.mean() - y.mean()), stats.ttest_ind(x, y, equal_var=False))


def one_more(value: float, others: Sequence[float] | Real[np.ndarray, " n"]) -> Estimate:
    """Return a value minus the mean of others, with the t interval and test for one more draw from their distribution.

    This is Student's t test with a sample of one: the spread is that of the others, with n − 1 degrees of freedom, and the
    standard error of a new value's distance from their mean is sd √(1 + 1/n).
    """
    x = np.asarray(others, dtype=float)
    if len(x) < 2 or np.ptp(x) == 0:
        return constant(value - float(x.mean()) if len(x) else value, 1)
    return tested(value - float(x.mean()), stats.ttest_ind([value], x))


def constant(mean: float, n: int) -> Estimate:
    """Return the estimate of `n` values without spread. No error can be estimated from them, but zeros say that they are 0."""
    return Estimate(0.0, (0.0, 0.0), 1.0) if n > 1 and mean == 0 else Estimate(mean, None)


def tested(mean: float, test: Any) -> Estimate:
    """Return the estimate of a t test."""
    low, high = test.confidence_interval(0.95)
    return Estimate(mean, (float(low), float(high)), float(test.pvalue) if np.isfinite(test.pvalue) else None)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm-adjusted p-values, valid for all comparisons together. Those without a test stay None and do not count."""
    known = [k for k, p in enumerate(p_values) if p is not None and np.isfinite(p)]
    adjusted: list[float | None] = [None] * len(p_values)
    if known:
        for k, p in zip(known, multipletests([p_values[k] for k in known], method="holm")[1], strict=True):
            adjusted[k] = float(p)
    return adjusted


def p_value(observed: ArrayLike, null: ArrayLike) -> np.float64 | Float[np.ndarray, "..."]:
    """Return (1 + number of the n null draws at or above the observed) / (1 + n).

    It is valid at every level (Phipson & Smyth 2010).
    """
    # A draw equal to the observed arrangement must count, whatever the rounding of its sums.
    least = np.asarray(observed) - 1e-9 * np.abs(observed)
    return (1 + np.size(null) - np.searchsorted(np.sort(null), least)) / (1 + np.size(null))


def share_interval(k: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share, `k` of `n` (Clopper & Pearson 1934); (0, 1) if `n` is 0.

    Each end by itself is a bound at level (1 + `level`) / 2.
    """
    low, high = proportion_confint(k, n, 1 - level, method="beta") if n else (0.0, 1.0)
    return float(low), float(high)


def corrected(estimates: Sequence[Estimate]) -> list[dict[str, Any]]:
    """Return estimates as JSON, with `p` and with `p_holm`, which is adjusted for all of them."""
    adjusted = holm([estimate.p for estimate in estimates])
    return [{**estimate.with_p(), "p_holm": p} for estimate, p in zip(estimates, adjusted, strict=True)]


def contrast(groups: Sequence[tuple[float, Sequence[float]]]) -> Estimate:
    """Return the weighted sum of the means of independent samples of any variance, given as (weight, values) pairs.

    The interval and the test are Welch's, with the degrees of freedom of Welch (1947) and Satterthwaite (1946). The difference
    of two samples is the case of weights 1 and -1.
    """
    samples = [np.asarray(values, dtype=float) for _, values in groups]
    mean = float(sum(weight * x.mean() for (weight, _), x in zip(groups, samples, strict=True)))
    least = min(len(x) for x in samples)
    if least < 2 or all(np.ptp(x) == 0 for x in samples):
        return constant(mean, least)
    parts = np.array([weight**2 * x.var(ddof=1) / len(x) for (weight, _), x in zip(groups, samples, strict=True)])
    if not parts.any():  # what varies has no weight
        return constant(mean, least)
    freedom = parts.sum() ** 2 / sum(part**2 / (len(x) - 1) for part, x in zip(parts, samples, strict=True))
    error = float(np.sqrt(parts.sum()))
    half = float(stats.t.ppf(0.975, freedom)) * error
    return Estimate(mean, (mean - half, mean + half), float(2 * stats.t.sf(abs(mean) / error, freedom)))


def ratio(samples: Sequence[Sequence[float]], numerator: Sequence[float], denominator: Sequence[float]) -> Estimate:
    """Return the ratio of two weighted sums of the means of the same independent samples, with Fieller's interval (1954).

    The interval contains each r for which numerator − r · denominator, which is also a weighted sum, does not differ from 0 by
    `contrast`. If the denominator itself does not differ from 0, the interval has no ends: `ci95` is None, and the ratio means
    nothing.
    """

    def remainder(r: float) -> Estimate:
        weights = (a - r * b for a, b in zip(numerator, denominator, strict=True))
        return contrast(list(zip(weights, samples, strict=True)))

    def excess(r: float) -> float:
        low, high = remainder(r).ci95 or (0.0, 0.0)
        return max(low, -high)  # above 0 outside of the interval

    below = contrast(list(zip(denominator, samples, strict=True)))
    middle = contrast(list(zip(numerator, samples, strict=True))).mean / below.mean if below.mean else float("nan")
    if not below.ci95 or below.ci95[0] <= 0 <= below.ci95[1]:
        return Estimate(middle, None)
    low, high = (end_of(excess, middle, sign) for sign in (-1, 1))
    return Estimate(middle, (low, high))


def end_of(excess: Callable[[float], float], middle: float, sign: int) -> float:
    """Find where a function that is not above 0 at `middle` rises above 0 in one direction."""
    if excess(middle + sign * 1e-9) > 0:
        return middle
    step = 1e-3
    while excess(middle + sign * step) <= 0:
        step *= 2
    return middle + sign * float(optimize.brentq(lambda distance: excess(middle + sign * distance), 0, step))


def log_odds(p: Sequence[float] | Float[np.ndarray, "..."], least: float) -> Float[np.ndarray, "..."]:
    """Return the log-odds of probabilities, which make probabilities of different size comparable.

    Probabilities are clipped to `least` and 1 − `least`, so that the log-odds stay finite.
    """
    return special.logit(np.clip(np.asarray(p, dtype=float), least, 1 - least))
