"""Which features fire on which tokens of a text, in the order of its contexts, and the same text shifted against itself."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from undertone.lab.firings import read_firings, starts
from undertone.lab.reading import Reader

# Of random draws of a null, the share that lies below its bound.
LEVEL = 0.95


@dataclass(frozen=True)
class Firing:
    """Activations of the tokens that are read, one context behind the other: `acts`, sparse, `[n_tokens, d_sae]`.

    `token` holds their ids, `position` their places in their contexts, and `context` the numbers of these, rising.
    """

    acts: sparse.csr_matrix
    token: Int[np.ndarray, " n_tokens"]
    position: Int[np.ndarray, " n_tokens"]
    context: Int[np.ndarray, " n_tokens"]

    @property
    def counts(self) -> Int[np.ndarray, " d_sae"]:
        """On how many tokens each feature fires."""
        return np.bincount(self.acts.indices, minlength=self.acts.shape[1])

    @property
    def alive(self) -> Int[np.ndarray, " n_alive"]:
        """The features that fire at all."""
        return np.flatnonzero(self.counts)

    @property
    def fires(self) -> sparse.csr_matrix:
        """Which of the living features fire on which tokens, 1 or 0, `[n_tokens, n_alive]`."""
        return (self.acts[:, self.alive] > 0).astype(np.float64)


def read_firing(reader: Reader) -> Firing:
    """What fires where in all of the reader's contexts."""
    firings, contexts = read_firings(reader), [row.ids for row in reader.rows]
    order = np.argsort(firings.place)
    place, context = firings.place[order], firings.row[order]
    return Firing(firings.acts.tocsr()[order], np.concatenate(contexts)[place], place - starts(contexts)[context], context)


def shifted(
    context: Int[np.ndarray, " n_tokens"], n: int, seed: int
) -> Iterator[tuple[Int[np.ndarray, " n_pairs"], Int[np.ndarray, " n_pairs"]]]:
    """Indices of tokens and of those that they meet where the text is moved against itself by 1, 2, … `n` whole contexts.

    Contexts are in the order of their lengths, those of one length in random order, and the first follows on the last. So each
    token meets one at its own place in a context of about the same length; the ends of longer ones meet none. At which places
    and in how many contexts a feature fires is as it was, and what else fires there is not. There are none without a second
    context.
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
    """What a further draw of the same kind exceeds once in 20 times.

    That is the greatest of 19 draws, the second of 39; of fewer than 19 the greatest, which is exceeded more often.
    """
    n = len(draws)
    rank = min(n, int(np.ceil(LEVEL * (n + 1) - 1e-9)))
    return np.sort(draws, axis=0)[rank - 1]
