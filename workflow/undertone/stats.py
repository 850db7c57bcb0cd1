"""Means and their intervals. Each interval covers what its argument varies over: questions, or training seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; `ci95` is None where a single value gives no spread."""

    mean: float
    ci95: tuple[float, float] | None

    def as_dict(self) -> dict[str, object]:
        """The estimate as JSON."""
        return {"mean": self.mean, "ci95": list(self.ci95) if self.ci95 else None}


def mean_interval(values: Sequence[float] | np.ndarray) -> Estimate:
    """Mean of independent values with Student's t interval."""
    x = np.asarray(values, dtype=float)
    mean = float(x.mean())
    if len(x) < 2:
        return Estimate(mean, None)
    half = float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return Estimate(mean, (mean - half, mean + half))


def log_odds(p: Sequence[float] | np.ndarray, least: float) -> np.ndarray:
    """Log-odds of probabilities, which compare those of different size; kept finite by taking none below `least`."""
    clipped = np.clip(np.asarray(p, dtype=float), least, 1 - least)
    return np.log(clipped / (1 - clipped))


def difference_interval(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> Estimate:
    """Mean of `a` minus mean of `b`, independent samples of any variance, with Welch's t interval."""
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    difference = float(x.mean() - y.mean())
    if len(x) < 2 or len(y) < 2:
        return Estimate(difference, None)
    vx, vy = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
    if vx + vy == 0:
        return Estimate(difference, (difference, difference))
    freedom = (vx + vy) ** 2 / (vx**2 / (len(x) - 1) + vy**2 / (len(y) - 1))
    half = float(stats.t.ppf(0.975, freedom) * np.sqrt(vx + vy))
    return Estimate(difference, (difference - half, difference + half))
