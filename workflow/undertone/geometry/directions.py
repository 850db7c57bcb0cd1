"""Vectors of concepts, from the vectors of their words; concepts with equally many words are computed at once."""

import numpy as np
from jaxtyping import Float


def mean_vector(x: Float[np.ndarray, "n_sets n_words d"]) -> Float[np.ndarray, "n_sets d"]:
    """The mean of each set's words."""
    mean: np.ndarray = x.mean(1)
    return mean


def linear_discriminant(x: Float[np.ndarray, "n_sets n_words d"]) -> Float[np.ndarray, "n_sets d"]:
    """Return ℓ = (g̃ · x̄) g̃ for each set, with g̃ the unit vector along Σ⁻¹ x̄ (Park et al. 2024, section 4).

    Σ is the words' covariance, shrunk towards a multiple of the identity (Ledoit and Wolf 2004). There is no second class: ℓ is
    the direction in which the words are far from the origin, relative to their scatter.
    """
    mean = x.mean(1)
    centred = x - mean[:, None]
    shrinkage, scale = _shrinkage(centred)
    # Identical words have no scatter; the direction is then that of their mean.
    ridge = np.where(scale > 0, shrinkage * scale, 1.0)
    # Words may span few directions; a ridge as small as rounding errors keeps the inverse finite.
    ridge = np.maximum(ridge, 1e-9 * scale)
    along = _solved(centred * np.sqrt((1 - shrinkage) / x.shape[1])[:, None, None], ridge, mean)
    unit = along / np.linalg.norm(along, axis=1, keepdims=True)
    direction: np.ndarray = np.einsum("sd,sd->s", unit, mean)[:, None] * unit
    return direction


def _shrinkage(
    centred: Float[np.ndarray, "n_sets n_words d"],
) -> tuple[Float[np.ndarray, " n_sets"], Float[np.ndarray, " n_sets"]]:
    """Return Ledoit and Wolf's weight of the identity, and the identity's factor: the mean variance of a coordinate.

    Sums over the d × d entries of the covariance S = XᵀX / n equal sums over the n × n entries of XXᵀ, and the other way round:
    |S|² = |XXᵀ|² / n², and Σ_k |x_k xₖᵀ|² = Σ_k |x_k|⁴. Only the smaller of the two matrices is computed.
    """
    _, n, d = centred.shape
    squares = (centred**2).sum(2)
    turned = centred.transpose(0, 2, 1)
    gram = centred @ turned if n < d else turned @ centred
    scale = squares.sum(1) / n / d
    norm = (gram**2).sum((1, 2)) / n**2
    distance = norm / d - scale**2
    noise = ((squares**2).sum(1) / n - norm) / n / d
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(distance > 0, noise / distance, 1.0)
    return np.clip(weight, 0.0, 1.0), scale


def _solved(
    rows: Float[np.ndarray, "n_sets n_words d"], ridge: Float[np.ndarray, " n_sets"], vectors: Float[np.ndarray, "n_sets d"]
) -> Float[np.ndarray, "n_sets d"]:
    """Return (RᵀR + ridge · 1)⁻¹ v; with fewer rows than columns by Woodbury: (v − Rᵀ(RRᵀ + ridge · 1)⁻¹ R v) / ridge."""
    _, n, d = rows.shape
    turned, v = rows.transpose(0, 2, 1), vectors[:, :, None]
    if n < d:
        inner = np.linalg.solve(rows @ turned + ridge[:, None, None] * np.eye(n), rows @ v)
        return ((v - turned @ inner) / ridge[:, None, None])[:, :, 0]
    solved: np.ndarray = np.linalg.solve(turned @ rows + ridge[:, None, None] * np.eye(d), v)[:, :, 0]
    return solved
