"""Correlations of features with neurons, from running sums over text; neurons are chosen on one half, scored on the other."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from undertone.lab.firing import Firing
from undertone.lab.reading import Reader
from undertone.lm.hooks import resid_post
from undertone.lm.neurons import neurons
from undertone.lm.training import collate
from undertone.runtime.progress import progress

# Most sums in memory at a time; neurons of further layers are read in another pass over the text.
NUMBERS = 2**26
HALVES = 2
# Neurons kept for each column.
KEPT = 3


@dataclass(frozen=True)
class Columns:
    """What is correlated with neurons: features at their own tokens, or at tokens of other contexts as a null.

    The value of column j at a token is the activation of feature `feature[j]` at the token paired with it under
    `meeting[j]`. `meets` `[n_meetings, n_tokens]` holds the token paired with each token, or −1 if there is none.
    """

    acts: sparse.csr_matrix
    feature: Int[np.ndarray, " n_columns"]
    meeting: Int[np.ndarray, " n_columns"]
    meets: Int[np.ndarray, "n_meetings n_tokens"]

    def at(self, tokens: Int[np.ndarray, " n"]) -> tuple[Float[np.ndarray, "n n_columns"], Float[np.ndarray, "n n_meetings"]]:
        """Return the columns' values at some tokens, 0 at unpaired ones, and for each meeting 1 at paired tokens, else 0."""
        values = np.zeros((len(tokens), len(self.feature)), dtype=np.float32)
        met = self.meets[:, tokens]
        for k, places in enumerate(met):
            own = self.meeting == k
            values[:, own] = self.acts[places.clip(min=0)][:, self.feature[own]].toarray() * (places >= 0)[:, None]
        return values, (met >= 0).T.astype(np.float32)


@dataclass(frozen=True)
class Best:
    """For each column the neurons of greatest |r| on half 0: `layer`, `neuron`, r on half 0 (`chosen`) and on half 1 (`r`)."""

    layer: Int[np.ndarray, "n_columns n_kept"]
    neuron: Int[np.ndarray, "n_columns n_kept"]
    chosen: Float[np.ndarray, "n_columns n_kept"]
    r: Float[np.ndarray, "n_columns n_kept"]

    def joined(self, other: "Best") -> "Best":
        """Return the best neurons of both."""
        parts = [np.concatenate(pair, 1) for pair in zip(vars(self).values(), vars(other).values(), strict=True)]
        order = np.argsort(-np.abs(parts[2]), axis=1, kind="stable")[:, :KEPT]
        return Best(*(np.take_along_axis(part, order, axis=1) for part in parts))


def best_neurons(reader: Reader, firing: Firing, columns: Columns, sizes: Sequence[int], what: str) -> Best:
    """Return, for each column, the neurons that it is most correlated with; `sizes` are the neurons in layers 0, 1, …"""
    best: Best | None = None
    groups = list(grouped(sizes, NUMBERS // (HALVES * len(columns.feature))))
    with progress(len(groups) * len(reader.rows), what, "context") as bar:
        for layers in groups:
            sums = Sums(columns, [sizes[layer] for layer in layers], reader.loaded.model.device)
            for tokens, values in read_neurons(reader, firing, layers):
                sums.add(tokens, values, firing.context[tokens] % HALVES)
                bar.update(len(np.unique(firing.context[tokens])))
            mine = sums.best(layers)
            best = mine if best is None else best.joined(mine)
    assert best
    return best


def grouped(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield layers in groups of at most `most` neurons, or of one layer."""
    group: list[int] = []
    for layer, size in enumerate(sizes):
        if group and sum(sizes[each] for each in group) + size > most:
            yield group
            group = []
        group.append(layer)
    yield group


def read_neurons(
    reader: Reader, firing: Firing, layers: Sequence[int]
) -> Iterator[tuple[Int[np.ndarray, " n"], Float[Tensor, "n n_neurons"]]]:
    """Yield, by batch of contexts, the tokens as places in `firing`, and the layers' neurons on them."""
    loaded = reader.loaded
    starts = np.searchsorted(firing.context, np.arange(len(reader.rows) + 1))

    def work(indices: Sequence[int]) -> tuple[Int[np.ndarray, " n"], Float[Tensor, "n n_neurons"]]:
        batch = collate([reader.rows[k] for k in indices], loaded.pad_id, loaded.model.device)
        with torch.no_grad(), ExitStack() as stack:
            kept = stack.enter_context(neurons(loaded.model, layers))
            resid_post(loaded.model, max(layers), batch)
        tokens = np.concatenate([np.arange(starts[k], starts[k + 1]) for k in indices])
        row = np.repeat(np.arange(len(indices)), [starts[k + 1] - starts[k] for k in indices])
        at = torch.tensor(row), torch.tensor(firing.position[tokens])
        return tokens, torch.cat([kept[layer][at].float() for layer in layers], dim=1)

    yield from loaded.batch_size("contexts read together", reader.at_once).parts(work, reader.order)


class Sums:
    """Sums of columns, of neurons and of their products, over the tokens of each half."""

    def __init__(self, columns: Columns, sizes: Sequence[int], device: torch.device):
        self.columns, self.sizes, self.device = columns, sizes, device
        n, m, d = len(columns.feature), len(columns.meets), sum(sizes)
        shapes = {"count": (m,), "own": (n,), "own_square": (n,), "sum": (m, d), "square": (m, d), "product": (n, d)}
        self.of = {name: torch.zeros(HALVES, *shape, dtype=torch.float64, device=device) for name, shape in shapes.items()}
        self.middle: Tensor | None = None

    def add(self, tokens: Int[np.ndarray, " n"], values: Float[Tensor, "n n_neurons"], half: Int[np.ndarray, " n"]) -> None:
        """Add some tokens. Neurons are centred on their mean in the first batch, so that squares lose no precision."""
        if self.middle is None:
            self.middle = values.mean(0)
        for k in range(HALVES):
            mine = half == k
            own, met = (torch.tensor(each, device=self.device) for each in self.columns.at(tokens[mine]))
            these = values[torch.tensor(mine, device=self.device)] - self.middle
            parts = {
                "count": met.sum(0),
                "own": own.sum(0),
                "own_square": own.square().sum(0),
                "sum": met.T @ these,
                "square": met.T @ these.square(),
                "product": own.T @ these,
            }
            for name, part in parts.items():
                self.of[name][k] += part

    def best(self, layers: Sequence[int]) -> Best:
        """Return, for each column, the neurons of greatest |r| on half 0."""
        first, second = (self.correlation(k) for k in range(HALVES))
        order = np.argsort(-np.abs(first), axis=1, kind="stable")[:, :KEPT]
        layer = np.repeat(np.array(layers), self.sizes)[order]
        neuron = np.concatenate([np.arange(size) for size in self.sizes])[order]
        return Best(layer, neuron, *(np.take_along_axis(each, order, axis=1) for each in (first, second)))

    def correlation(self, half: int) -> Float[np.ndarray, "n_columns n_neurons"]:
        """Return Pearson's r on a half; 0 if a column or a neuron is constant on its tokens."""
        each = {name: sums[half].cpu().numpy() for name, sums in self.of.items()}
        meeting = self.columns.meeting
        n, own = each["count"][meeting][:, None], each["own"][:, None]
        shared = n * each["product"] - own * each["sum"][meeting]
        spread = n[:, 0] * each["own_square"] - each["own"] ** 2
        others = each["count"][:, None] * each["square"] - each["sum"] ** 2
        scale = np.sqrt(spread.clip(min=0)[:, None] * others.clip(min=0)[meeting])
        return np.divide(shared, scale, out=np.zeros_like(shared), where=scale > 1e-9 * n**2)
