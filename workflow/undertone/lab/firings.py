"""Where an SAE's features fire in a text: sparse activations by token, with each token's context."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import csc_matrix

from undertone.lab.reading import Read, Reader
from undertone.runtime.progress import progress


@dataclass(frozen=True)
class Firings:
    """Activations of features on the tokens that are read, in the order of reading, which is the same for every SAE.

    `place` counts tokens through all contexts, including special ones; `row` is a token's context; `acts` is `[n, d_sae]`.
    """

    place: Int[np.ndarray, " n"]
    row: Int[np.ndarray, " n"]
    acts: csc_matrix

    @property
    def half(self) -> Int[np.ndarray, " n"]:
        """0 for tokens used to choose, 1 for tokens used to score: the parity of their context's number."""
        return self.row % 2

    def of(self, tokens: Bool[np.ndarray, " n"]) -> csc_matrix:
        """Return the activations on some of the tokens."""
        return self.acts.tocsr()[tokens].tocsc()


class FiringSums:
    """Collects firings batch by batch."""

    def __init__(self, reader: Reader):
        self.first, self.d_sae, self.n = starts([row.ids for row in reader.rows]), reader.sae.cfg.d_sae, 0
        self._places: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []
        self._entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, read: Read) -> None:
        """Add a batch of contexts."""
        at, position = (each.cpu().numpy() for each in read.kept.nonzero(as_tuple=True))
        row = read.row.cpu().numpy()[at]
        acts = read.acts[read.kept]
        token, feature = acts.nonzero(as_tuple=True)
        values = acts[token, feature].float().cpu().numpy()
        self._places.append(self.first[row] + position)
        self._rows.append(row)
        self._entries.append((token.cpu().numpy() + self.n, feature.cpu().numpy(), values))
        self.n += len(row)

    def firings(self) -> Firings:
        """Return the firings of all batches."""
        token, feature, value = (np.concatenate(parts) for parts in zip(*self._entries, strict=True))
        acts = csc_matrix((value, (token, feature)), shape=(self.n, self.d_sae))
        return Firings(np.concatenate(self._places), np.concatenate(self._rows), acts)


def read_firings(reader: Reader) -> Firings:
    """Read where the features of a reader's SAE fire."""
    sums = FiringSums(reader)
    with progress(len(reader.rows), "firings", "context") as bar:
        for read in reader.batches():
            sums.add(read)
            bar.update(len(read.row))
    return sums.firings()


def starts(contexts: Sequence[Sequence[int]]) -> Int[np.ndarray, " n_contexts"]:
    """Return the place of each context's first token, counted through all contexts."""
    lengths = np.array([len(ids) for ids in contexts])
    return np.cumsum(lengths) - lengths


def first_contexts(contexts: list[list[int]], tokens: int) -> list[list[int]]:
    """Return the first contexts, up to the one that completes `tokens` tokens, including special ones."""
    ends = np.cumsum([len(ids) for ids in contexts])
    return contexts[: int(np.searchsorted(ends, tokens)) + 1]
