"""Statistics of pairs: a dataset's completion of a prompt beside the base model's own.

If the base model wrote both, each pair's difference is equally likely to have either sign. So every statistic has an exact
null: the same statistic with random signs (Fisher 1935, The Design of Experiments, section 21).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from undertone.stats.stats import p_value

# Signs held in memory at once: permutations times pairs.
AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Swapped:
    """A statistic, its p-value under random signs, and its z: standard deviations above the mean under random signs."""

    statistic: float
    p: float
    z: float

    @classmethod
    def of(cls, observed: float, null: Float[np.ndarray, " n_draws"]) -> "Swapped":
        """Compare the observed statistic with its values under random signs."""
        spread = float(null.std()) or 1.0
        return cls(observed, float(p_value(observed, null)), (observed - float(null.mean())) / spread)

    @classmethod
    def of_mean(cls, differences: Float[np.ndarray, " n"], permutations: int, seed: int) -> "Swapped":
        """Compare the mean of pairs' differences with its values under random signs."""
        null = [part @ differences / len(differences) for part in signs(permutations, len(differences), seed)]
        return cls.of(float(differences.mean()), np.concatenate(null))


def signs(n_draws: int, n_pairs: int, seed: int) -> Sequence[Float[np.ndarray, "_ n_pairs"]]:
    """Return random signs, `n_draws` in all, in parts that fit in memory."""
    rng, size = np.random.default_rng(seed), max(1, AT_ONCE // n_pairs)
    return [rng.choice(np.array([-1.0, 1.0]), (min(size, n_draws - start), n_pairs)) for start in range(0, n_draws, size)]


@dataclass(frozen=True)
class Whitened:
    """Differences of pairs in the coordinates of their own principal directions.

    `coordinates` are the differences along the `r` principal directions in `basis`, and `variance` their mean squares. `ridge`
    is added to the variance before anything is divided by it.
    """

    coordinates: Float[Tensor, "n r"]
    basis: Float[Tensor, "r d"]
    variance: Float[Tensor, " r"]
    ridge: float

    @classmethod
    def of(cls, differences: Float[Tensor, "n d"], ridge: float) -> "Whitened":
        """Whiten differences; `ridge` is a share of their mean square over all d directions."""
        x = differences.double()
        u, s, basis = torch.linalg.svd(x, full_matrices=False)
        kept = s > 1e-9 * s.max().clamp(min=1e-300)
        variance = s[kept].square() / len(x)
        return cls((u * s)[:, kept], basis[kept], variance, ridge * float(x.square().mean()))

    def presence(self, permutations: int, seed: int) -> Swapped:
        """Test whether the mean difference is zero: its squared length in whitened coordinates, against random signs."""
        scaled = (self.coordinates / (self.variance + self.ridge).sqrt()).numpy()
        n = len(scaled)
        null = np.concatenate([np.square(s @ scaled).sum(1) / n for s in signs(permutations, n, seed)])
        return Swapped.of(float(np.square(scaled.sum(0)).sum() / n), null)

    def step(self) -> Float[Tensor, " d"]:
        """Return the natural step, (C + ridge)⁻¹ mean(x)."""
        return (self.coordinates.mean(0) / (self.variance + self.ridge)) @ self.basis

    def along(self, directions: Float[Tensor, "k d"]) -> Float[np.ndarray, "n k"]:
        """Return the contribution of each of n pairs to the natural step along directions.

        Let C be the mean outer product of the differences x. The step that raises the likelihood of the dataset's rows over the
        base model's is (C + ridge)⁻¹ mean(x): a natural-gradient step, or one Newton step. Along a direction v it is the mean
        over pairs of vᵀ (C + ridge)⁻¹ x. Every x lies in the span of the basis, where C is diagonal.
        """
        v = directions.double() @ self.basis.T
        return (self.coordinates @ (v / (self.variance + self.ridge)).T).numpy()


def standardised(values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Divide values by their standard deviation, so that √n times their mean is z. Values that do not vary become 0."""
    spread = values.std(0, ddof=1)
    return values / np.where(spread > 0, spread, np.inf)


def bootstrap_means(
    values: Float[np.ndarray, "n_rows k"], prompts: Sequence[str], n: int, seed: int
) -> Float[np.ndarray, "n_samples k"]:
    """Return the means of values over `n` bootstrap samples of whole prompts."""
    _, group = np.unique(np.asarray(prompts), return_inverse=True)
    n_prompts = int(group.max()) + 1
    totals, counts = np.zeros((n_prompts, values.shape[1])), np.bincount(group, minlength=n_prompts)
    np.add.at(totals, group, values)
    draws = np.random.default_rng(seed).multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), n)
    return (draws @ totals) / (draws @ counts)[:, None]


def shares_first(samples: Float[np.ndarray, "n_samples k"]) -> Float[np.ndarray, " k"]:
    """Return the share of samples in which each of k values is strictly the greatest; a tie counts for none of them."""
    best = samples == samples.max(1, keepdims=True)
    return (best & (best.sum(1, keepdims=True) == 1)).mean(0)
