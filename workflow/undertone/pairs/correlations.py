"""Pearson correlations of two SAEs' features over the same tokens, plain and given the token, sums in float64."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array, hstack

# A variance below this share of the mean square is rounding error.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Activity:
    """Sparse features on some tokens, and their moments.

    `acts` is `[n, d_sae]`. `words`, `[n, n_words]`, marks which token of the text is at each place. `given`, of shape
    `[n_words, d_sae]`, is the mean activation on each token. `sd` and `sd_given` are standard deviations around the mean and
    around the token's mean; 0 for a constant feature.
    """

    acts: csr_array
    words: csr_array
    mean: Float[np.ndarray, " d_sae"]
    sd: Float[np.ndarray, " d_sae"]
    given: Float[np.ndarray, "n_words d_sae"]
    sd_given: Float[np.ndarray, " d_sae"]

    @classmethod
    def of(cls, acts: csr_array, word: Int[np.ndarray, " n"]) -> "Activity":
        """Compute the moments of features on tokens."""
        n, acts = len(word), csr_array(acts, dtype=np.float64)
        _, word = np.unique(word, return_inverse=True)
        words = csr_array((np.ones(n), (np.arange(n), word)))
        counts = np.bincount(word)
        mean, square = acts.sum(0) / n, acts.multiply(acts).sum(0) / n
        given = (words.T @ acts).toarray() / counts[:, None]
        return cls(acts, words, mean, spread(square, mean**2), given, spread(square, counts @ given**2 / n))

    def shifted(self, by: int) -> "Activity":
        """Move each token, with its features, `by` places on; those at the end move to the beginning."""
        order = np.roll(np.arange(self.acts.shape[0]), by)
        return Activity(self.acts[order], self.words[order], self.mean, self.sd, self.given, self.sd_given)

    def exchanged(self, rng: np.random.Generator) -> "Activity":
        """Exchange features at random among the places of the same token."""
        taken = exchanged_places(self.words.indices, rng)  # each row of `words` has one entry
        return Activity(self.acts[taken], self.words, self.mean, self.sd, self.given, self.sd_given)


def exchanged_places(word: Int[np.ndarray, " n"], rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """Permute places at random, each to a place of the same token."""
    places, order = np.argsort(word, kind="stable"), np.lexsort((rng.random(len(word)), word))
    taken = np.empty(len(word), dtype=np.int64)
    taken[places] = order
    return taken


def spread(square: Float[np.ndarray, " d_sae"], explained: Float[np.ndarray, " d_sae"]) -> Float[np.ndarray, " d_sae"]:
    """Return √(`square` − `explained`), a standard deviation; 0 if no more than rounding error is left."""
    left = square - explained
    return np.sqrt(np.where(left > ROUNDING * square, left, 0))


def correlations(a: Activity, b: Activity) -> tuple[Float[np.ndarray, "d_a d_b"], Float[np.ndarray, "d_a d_b"]]:
    """Return r of all pairs of features, and r given the token: after each token's mean is subtracted from both features.

    NaN if a feature is constant. If features only detect tokens, they correlate, but not given the token. Each side uses its
    own token means, so a shift of `b` makes no difference to them.
    """
    n, d_a, d_b = a.acts.shape[0], a.acts.shape[1], b.acts.shape[1]
    both = csr_array(hstack([a.acts, a.words]).T @ hstack([b.acts, b.words], format="csr"))
    products = both[:d_a, :d_b].toarray()
    left = products - a.given.T @ both[d_a:, :d_b].toarray() - both[:d_a, d_b:] @ b.given
    left += a.given.T @ (both[d_a:, d_b:] @ b.given)
    with np.errstate(divide="ignore", invalid="ignore"):
        plain = (products / n - np.outer(a.mean, b.mean)) / np.outer(a.sd, b.sd)
        given = left / n / np.outer(a.sd_given, b.sd_given)
    return finite(plain), finite(given)


def finite(r: Float[np.ndarray, "d_a d_b"]) -> Float[np.ndarray, "d_a d_b"]:
    """Clip correlations to −1 and 1, which rounding may exceed; NaN where there is none."""
    return np.where(np.isfinite(r), r.clip(-1, 1), np.nan)
