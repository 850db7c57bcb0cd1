"""How alike two clouds of points with paired rows are, by measures that no rotation of the axes changes.

Each measure is computed for the rows as they are, and with the rows of one cloud shuffled, which gives its value by chance.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from undertone.stats.partners import unit
from undertone.stats.stats import p_value

# With fewer points per dimension, canonical correlations are high by chance alone.
POINTS_PER_DIMENSION = 10
Order = Int[np.ndarray, " n"]
# A measure as a function of the order of the second cloud's rows.
Measure = Callable[[Order], float]


def similarities(
    x: Float[np.ndarray, "n d_x"], y: Float[np.ndarray, "n d_y"], k: int, variance: float, permutations: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Return SVCCA, CKA, RSA, mutual k-NN and Procrustes of two clouds, each beside its values for shuffled rows.

    SVCCA has no value if there are fewer than 10 points per dimension: it is then high by chance, and only z and p are
    meaningful.
    """
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(x)) for _ in range(permutations)]
    result = {name: beside_chance(measure, len(x), orders) for name, measure in measures(x, y, k, variance).items()}
    if len(x) < POINTS_PER_DIMENSION * max(x.shape[1], y.shape[1]):
        result["svcca"]["value"] = None
    return result


def beside_random_sets(
    x: Float[np.ndarray, "n d_x"],
    y: Float[np.ndarray, "n d_y"],
    chosen: Int[np.ndarray, " m"],
    k: int,
    variance: float,
    draws: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Return the measures of the chosen rows, each beside those of random sets of as many rows, which are paired as well.

    This shows whether the chosen rows are more alike than other rows, not whether they are alike at all.
    """
    rng = np.random.default_rng(seed)
    sets = [chosen, *(rng.choice(len(x), len(chosen), replace=False) for _ in range(draws))]
    each = [measures(x[rows], y[rows], k, variance) for rows in sets]
    order = np.arange(len(chosen))
    values = {name: [of[name](order) for of in each] for name in each[0]}
    return {name: beside(own, np.array(null), len(chosen)) for name, (own, *null) in values.items()}


def measures(x: Float[np.ndarray, "n d_x"], y: Float[np.ndarray, "n d_y"], k: int, variance: float) -> dict[str, Measure]:
    """Return all measures of two clouds by name."""
    return {
        "svcca": svcca(x, y, variance),
        "cka": cka(x, y),
        "rsa": rsa(x, y),
        "knn": mutual_neighbours(x, y, k),
        "procrustes": procrustes(x, y),
    }


def beside_chance(measure: Measure, n: int, orders: Iterable[Order]) -> dict[str, Any]:
    """Return a measure beside its values with the second cloud's rows in each of the orders."""
    return beside(measure(np.arange(n)), np.array([measure(order) for order in orders]), n)


def beside(value: float, null: Float[np.ndarray, " n_draws"], n: int) -> dict[str, Any]:
    """Return `value`, `null_mean` and `null_sd` over draws, `z`, one-sided `p` and `n` points."""
    mean, sd = float(null.mean()), float(null.std(ddof=1))
    z = (value - mean) / sd if sd > 0 else None
    return {"value": value, "null_mean": mean, "null_sd": sd, "z": z, "p": float(p_value(value, null)), "n": n}


def svcca(x: Float[np.ndarray, "n d_x"], y: Float[np.ndarray, "n d_y"], variance: float) -> Measure:
    """Mean canonical correlation of the principal components that hold `variance` (Raghu et al. 2017, arXiv 1706.05806)."""
    left, right = scores(x, variance), scores(y, variance)
    return lambda order: float(np.linalg.svd(left.T @ right[order], compute_uv=False).mean())


def scores(x: Float[np.ndarray, "n d"], variance: float) -> Float[np.ndarray, "n n_components"]:
    """Orthonormal scores of the centred points on as many principal components as hold `variance` of their variance."""
    left, sizes, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    shares = np.cumsum(sizes**2) / np.sum(sizes**2)
    return left[:, : int(np.searchsorted(shares, variance)) + 1]


def cka(x: Float[np.ndarray, "n d_x"], y: Float[np.ndarray, "n d_y"]) -> Measure:
    """Linear CKA with the unbiased HSIC (Kornblith et al. 2019, arXiv 1905.00414; Song et al. 2012), 0 on average by chance."""
    x, y = x - x.mean(0), y - y.mean(0)
    norm = np.sqrt(hsic(x, x) * hsic(y, y))
    return lambda order: float(hsic(x, y[order]) / norm)


def hsic(x: Float[np.ndarray, "n d_x"], y: Float[np.ndarray, "n d_y"]) -> float:
    """Return the unbiased HSIC of linear kernels, K = XXᵀ and L = YYᵀ with zero diagonals, without computing either matrix.

    [Σ K ∘ L + ΣK ΣL / ((n − 1)(n − 2)) − 2 / (n − 2) · (K1)ᵀ(L1)] / (n (n − 3)).
    """
    n = len(x)
    squares = [np.sum(side**2, axis=1) for side in (x, y)]
    k, other = (side @ side.sum(0) - square for side, square in zip((x, y), squares, strict=True))
    both = np.sum((x.T @ y) ** 2) - squares[0] @ squares[1]
    both += k.sum() * other.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ other)
    return float(both / (n * (n - 3)))


def rsa(x: Float[np.ndarray, "n d_x"], y: Float[np.ndarray, "n d_y"]) -> Measure:
    """Spearman correlation of all cosines between points of one cloud with those of the other.

    No mean is subtracted from a point: a mean over its dimensions would depend on the axes.
    """
    return rsa_of(cosine_ranks(x), cosine_ranks(y))


def rsa_of(left: Float[np.ndarray, "n n"], right: Float[np.ndarray, "n n"]) -> Measure:
    """`rsa` of two clouds, from their `cosine_ranks`."""
    norm = float(np.linalg.norm(left) * np.linalg.norm(right))
    return lambda order: float(np.vdot(left, right[np.ix_(order, order)]) / norm)


def cosine_ranks(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    """Ranks of the cosines of all pairs, centred, 0 on the diagonal."""
    rows, upper = unit(x), np.triu_indices(len(x), 1)
    ranks = rankdata((rows @ rows.T)[upper].round(12))
    filled = np.zeros((len(x), len(x)))
    filled[upper] = ranks - ranks.mean()
    return filled + filled.T


def mutual_neighbours(x: Float[np.ndarray, "n d_x"], y: Float[np.ndarray, "n d_y"], k: int) -> Measure:
    """Share of a point's `k` nearest by cosine that are also among its `k` nearest in the other cloud.

    By chance it is k / (n − 1).
    """
    return neighbours_of(neighbours(x, k), neighbours(y, k), k)


def neighbours_of(left: Bool[np.ndarray, "n n"], right: Bool[np.ndarray, "n n"], k: int) -> Measure:
    """`mutual_neighbours` of two clouds, from their `neighbours`."""
    return lambda order: float(np.count_nonzero(left & right[np.ix_(order, order)]) / (k * len(left)))


def neighbours(x: Float[np.ndarray, "n d"], k: int) -> Bool[np.ndarray, "n n"]:
    """Mark the points that are among the `k` nearest of each by cosine, without the point itself."""
    rows = unit(x)
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.zeros(cosines.shape, dtype=bool)
    np.put_along_axis(nearest, np.argpartition(-cosines, k - 1, axis=1)[:, :k], True, axis=1)
    return nearest


def procrustes(x: Float[np.ndarray, "n d_x"], y: Float[np.ndarray, "n d_y"]) -> Measure:
    """Share of the squares that the best rotation of one cloud onto the other, with one scale, explains.

    It is (Σσ)² / (‖X‖² ‖Y‖²).
    """
    norm = float(np.sum(x**2) * np.sum(y**2))
    return lambda order: float(np.linalg.svd(x.T @ y[order], compute_uv=False).sum() ** 2 / norm)


def rotation(x: Float[np.ndarray, "n d_x"], y: Float[np.ndarray, "n d_y"]) -> Float[np.ndarray, "d_x d_y"]:
    """Return the orthogonal map Q for which x Q is closest to y.

    If the widths differ, Q or its transpose maps the shorter vectors into the space of the longer ones.
    """
    left, _, right = np.linalg.svd(x.T @ y, full_matrices=False)
    return left @ right
