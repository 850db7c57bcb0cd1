"""Which features fire on which tokens of a text, in the order of its contexts, and shifts of the text against itself."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from undertone.lab.firings import read_firings, starts
from undertone.lab.reading import Reader

# Share of a null's random draws that lie below its bound.
LEVEL = 0.95


@dataclass(frozen=True)
class Firing:
    """Activations on the tokens that are read, one context after the other: `acts`, sparse, `[n_tokens, d_sae]`.

    `token` holds their ids, `position` their positions in their contexts, and `context` their contexts' numbers, ascending.
    """

    acts: sparse.csr_matrix
    token: Int[np.ndarray, " n_tokens"]
    position: Int[np.ndarray, " n_tokens"]
    context: Int[np.ndarray, " n_tokens"]

    @property
    def counts(self) -> Int[np.ndarray, " d_sae"]:
        """The number of tokens on which each feature fires."""
        return np.bincount(self.acts.indices, minlength=self.acts.shape[1])

    @property
    def alive(self) -> Int[np.ndarray, " n_alive"]:
        """The features that fire at all."""
        return np.flatnonzero(self.counts)

    @property
    def fires(self) -> sparse.csr_matrix:
        """Whether each living feature fires on each token, 1 or 0, `[n_tokens, n_alive]`."""
        return (self.acts[:, self.alive] > 0).astype(np.float64)


def read_firing(reader: Reader) -> Firing:
    """Read which features fire where in all of the reader's contexts."""
    firings, contexts = read_firings(reader), [row.ids for row in reader.rows]
    order = np.argsort(firings.place)
    place, context = firings.place[order], firings.row[order]
    return Firing(firings.acts.tocsr()[order], np.concatenate(contexts)[place], place - starts(contexts)[context], context)


def shifted(
    context: Int[np.ndarray, " n_tokens"], n: int, seed: int
) -> Iterator[tuple[Int[np.ndarray, " n_pairs"], Int[np.ndarray, " n_pairs"]]]:
    """Yield indices of tokens and of those they meet when the text is shifted against itself by 1, 2, … `n` whole contexts.

    Contexts are sorted by length, those of one length in random order, and the first follows the last. So each token meets one
    at its own position in a context of about the same length; the ends of longer contexts meet none. A shift preserves the
    positions and the number of contexts in which a feature fires, but not what else fires there. With a single context there
    is no shift.
    """
    starts = np.flatnonzero(np.diff(context, prepend=-1))
    lengths = np.diff(starts, append=len(context))
    order = np.lexsort((np.random.default_rng(seed).random(len(starts)), lengths))
    for shift in range(1, min(n, len(starts) - 1) + 1):
        other = np.roll(order, -shift)
        common = np.minimum(lengths[order], lengths[other])
        place = np.arange(common.sum()) - np.repeat(np.cumsum(common) - common, common)
        yield np.repeat(starts[order], common) + place, np.repeat(starts[other], common) + place


def upper(draws: Float[np.ndarray, "n_draws n"]) -> Float[np.ndarray, " n"]:
    """Return the bound that a further draw of the same kind exceeds once in 20 times.

    It is the greatest of 19 draws, or the second greatest of 39. Of fewer than 19 it is the greatest, which is exceeded more
    often.
    """
    n = len(draws)
    rank = min(n, int(np.ceil(LEVEL * (n + 1) - 1e-9)))
    return np.sort(draws, axis=0)[rank - 1]
