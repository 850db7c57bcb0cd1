"""Differences of means between groups of tokens, from their sums by block of rows, and their permutation null.

A mean is a ratio: the sum over all blocks divided by their count. Its standard error is the linearised one of a ratio estimator
with blocks as the units (Cochran 1977, Sampling Techniques, section 6.4). So tokens of one row need not be independent.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from undertone.stats.ranks import rank
from undertone.stats.stats import p_value

# A feature that varies by less than this share of its size varies by the rounding of float32 alone.
ROUNDING = 1e-6
# The most numbers held at once in a table of permutations by features.
MAX_TABLE_NUMBERS = 2_000_000

# Sums and counts by block, float64; groups have different numbers of blocks.
Blocks = tuple[Float[Tensor, "_ d"], Float[Tensor, " _"]]


def filled(*groups: Blocks) -> list[Blocks]:
    """Return the groups without the blocks that hold no token."""
    return [(total[count > 0], count[count > 0]) for total, count in groups]


class Independent:
    """Blocks of different rows: Welch's t. The null permutes which group each block belongs to."""

    design = "independent"

    def __init__(self, a: Blocks, b: Blocks):
        (self.a, na), (self.b, nb) = filled(a, b)
        if min(len(na), len(nb)) < 2:
            raise ValueError(f"{len(na)} and {len(nb)} blocks hold tokens; a standard error needs two on either side")
        self.n_a, self.n_b = len(na), len(nb)
        total, self.count = torch.cat([self.a, self.b]), torch.cat([na, nb])
        # Shifting every value changes no difference, and sums of smaller numbers have smaller rounding errors.
        centred = total - self.count.unsqueeze(1) * (total.sum(0) / self.count.sum())
        # A feature that varies by rounding alone is set to 0.
        self.total = centred * (centred.abs().amax(0) > ROUNDING * total.abs().amax(0))
        # Two groups that are each the same everywhere, but not the same, vary by rounding alone.
        self.least = least_error(total, self.count) * self.total.any(0)
        self.squares, self.products = self.total.square(), self.total * self.count.unsqueeze(1)

    def observed(self) -> "Difference":
        """Return the difference of `a` and `b`."""
        return self.assigned((torch.arange(len(self.count)) < self.n_a).double().unsqueeze(0)).first()

    def permuted(self, n: int, seed: int) -> Iterator["Difference"]:
        """Yield `n` differences with blocks assigned to groups at random, some at a time."""
        rng = np.random.default_rng(seed)
        for size in parts(n, self.total.shape[1]):
            order = np.argsort(rng.random((size, len(self.count))), axis=1)
            yield self.assigned(torch.from_numpy(order < self.n_a).double())

    def assigned(self, weights: Float[Tensor, "n n_blocks"]) -> "Difference":
        """Return the differences between the blocks where `weights` is 1 and those where it is 0."""
        mean_a, var_a = self._moments(weights, self.n_a)
        mean_b, var_b = self._moments(1 - weights, self.n_b)
        variance = var_a + var_b
        # Welch and Satterthwaite's degrees of freedom; without any variance t is 0, whatever they are.
        freedom = variance.square() / (var_a.square() / (self.n_a - 1) + var_b.square() / (self.n_b - 1))
        return Difference(mean_a - mean_b, variance.sqrt().maximum(self.least), freedom.nan_to_num(1.0))

    def _moments(
        self, weights: Float[Tensor, "n_permutations n_blocks"], n: int
    ) -> tuple[Float[Tensor, "n_permutations d"], Float[Tensor, "n_permutations d"]]:
        """Return the mean of a group of `n` blocks and the variance of that mean."""
        count = (weights @ self.count).unsqueeze(1)
        mean = weights @ self.total / count
        # Σ (sum − mean · count)² over the group's blocks, multiplied out so that no table of permutations by blocks is made.
        around = weights @ self.squares - 2 * mean * (weights @ self.products)
        around += mean.square() * (weights @ self.count.square()).unsqueeze(1)
        # The variance of a ratio, linearised: n / (n − 1) · that sum / (Σ count)².
        return mean, around.clamp(min=0) * (n / count) ** 2 / (n * (n - 1))


class Paired:
    """The same tokens under two models: t of the blocks' differences. The null flips their signs."""

    design = "paired"

    def __init__(self, a: Blocks, b: Blocks):
        if not torch.equal(a[1], b[1]):
            raise ValueError(
                "the two models' activations are not of the same rows: their blocks differ in size; read both again"
            )
        ((total, self.count), (base, _)) = filled((a[0] - b[0], a[1]), b)
        if len(self.count) < 2:
            raise ValueError(f"{len(self.count)} blocks hold tokens; a standard error needs two")
        self.total = total * (total.abs().amax(0) > ROUNDING * base.abs().amax(0))
        # A difference that is the same everywhere, such as that of a steered activation, varies by rounding alone.
        self.least = least_error(base, self.count) * self.total.any(0)
        self.products = self.total * self.count.unsqueeze(1)

    def observed(self) -> "Difference":
        """Return the difference of `a` and `b`."""
        return self.assigned(torch.ones(1, len(self.count), dtype=torch.float64)).first()

    def permuted(self, n: int, seed: int) -> Iterator["Difference"]:
        """Yield `n` differences with the two models swapped in random blocks, some at a time."""
        rng = np.random.default_rng(seed)
        for size in parts(n, self.total.shape[1]):
            yield self.assigned(torch.from_numpy(rng.choice([-1.0, 1.0], (size, len(self.count)))))

    def assigned(self, signs: Float[Tensor, "n n_blocks"]) -> "Difference":
        """Return the differences with `signs`."""
        n, count = len(self.count), self.count.sum()
        mean = signs @ self.total / count
        # Σ (± sum − mean · count)², multiplied out; a sign drops out of the squares.
        around = self.total.square().sum(0) - 2 * mean * (signs @ self.products) + mean.square() * self.count.square().sum()
        variance = around.clamp(min=0) * (n / count) ** 2 / (n * (n - 1))
        return Difference(mean, variance.sqrt().maximum(self.least), torch.full_like(mean, n - 1))


def least_error(total: Float[Tensor, "n_blocks d"], count: Float[Tensor, " n_blocks"]) -> Float[Tensor, " d"]:
    """Return the smallest standard error that rounding leaves: a share of the greatest mean of a block."""
    return ROUNDING * (total.abs() / count.unsqueeze(1)).amax(0)


def parts(n: int, width: int) -> Iterator[int]:
    """Yield `n` in parts, so that a table of `width` columns stays within `MAX_TABLE_NUMBERS`."""
    size = max(1, MAX_TABLE_NUMBERS // max(1, width))
    yield from (min(size, n - start) for start in range(0, n, size))


@dataclass(frozen=True)
class Difference:
    """A difference of means with its standard error and degrees of freedom."""

    mean: Float[Tensor, "*n d"]
    se: Float[Tensor, "*n d"]
    freedom: Float[Tensor, "*n d"]

    def first(self) -> "Difference":
        """The first of several."""
        return Difference(self.mean[0], self.se[0], self.freedom[0])

    @property
    def t(self) -> Float[Tensor, "*n d"]:
        """The t statistic; 0 where nothing varies."""
        return torch.where(self.se > 0, self.mean / self.se, 0.0)


@dataclass(frozen=True)
class Tested:
    """Every feature's difference, tested.

    `p`: two-sided, of t. `q`: Benjamini-Hochberg over the `tested` features, which are those that vary. `p_max`: the share of
    permutations whose greatest |t| of any feature is at least this feature's; it holds for all features together (Westfall &
    Young 1993).
    """

    difference: Difference
    tested: Bool[Tensor, " d"]
    p: Float[np.ndarray, " d"]
    q: Float[np.ndarray, " d"]
    p_max: Float[np.ndarray, " d"]

    def row(self, k: int) -> dict[str, Any]:
        """Return a feature's figures."""
        figures = {"difference": self.difference.mean, "se": self.difference.se, "t": self.difference.t}
        judged = {"p": self.p, "q": self.q, "p_max": self.p_max}
        return (
            {"feature": k}
            | {name: float(x[k]) for name, x in figures.items()}
            | {name: float(x[k]) for name, x in judged.items()}
        )

    def order(self) -> list[int]:
        """Return the tested features by falling |t|."""
        order: list[int] = self.difference.t.abs().argsort(descending=True, stable=True).tolist()
        return [k for k in order if self.tested[k]]

    def rank(self, k: int) -> float:
        """Return the feature's place by |t|, from 1."""
        return rank(self.difference.t.abs(), k)


def judge(pair: Independent | Paired, permutations: int, seed: int) -> Tested:
    """Test every feature of a pair against the null of its permutations."""
    difference = pair.observed()
    varies = difference.se > 0
    t = difference.t.numpy()
    # Each feature by itself, then all of them by the false discovery rate.
    p = np.where(varies.numpy(), 2 * stats.t.sf(np.abs(t), difference.freedom.numpy()), 1.0)
    q = np.ones_like(p)
    if varies.any():
        q[varies.numpy()] = stats.false_discovery_control(p[varies.numpy()])
    # All together: against the greatest |t| of any feature in each permutation.
    greatest = np.concatenate([some.t.abs().amax(-1).numpy() for some in pair.permuted(permutations, seed)])
    return Tested(difference, varies, p, q, np.where(varies.numpy(), p_value(np.abs(t), greatest), 1.0))
