"""How well neurons of two models match, chosen and scored like features: the baseline for features."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from undertone.lm.hooks import resid_post
from undertone.lm.loading import LoadedModel
from undertone.lm.neurons import neurons, widths
from undertone.pairs.activity import Side, at_tokens
from undertone.pairs.aligned import Aligned
from undertone.pairs.best_matches import WAYS, chosen, shift_of
from undertone.pairs.correlations import exchanged_places
from undertone.pairs.headlines import ends, headline
from undertone.runtime.progress import progress
from undertone.stats.stats import p_value
from undertone.study.config.pair_settings import Matches

# Most activations (tokens times neurons) of both sides together; for wide layers fewer contexts are read.
NUMBERS = 2**30
# Pairs that are processed together.
PAIRS = 512
# A standard deviation below this share of the root mean square is rounding error of float32.
ROUNDING = 1e-5
SAME = "both SAEs read one layer of one model, whose neurons would be matched with themselves"
Half = Float[Tensor, "n d_mlp"]


@dataclass(frozen=True)
class Layer:
    """A layer's neurons on each half of the contexts, each with mean 0 and variance 1, and those to be matched (`drawn`).

    A neuron that is constant on a half is NaN there.
    """

    halves: tuple[Half, Half]
    drawn: Int[np.ndarray, " m"]

    @classmethod
    def of(cls, values: Float[np.ndarray, "n d_mlp"], row: Int[np.ndarray, " n"], most: int, seed: int, device: Any) -> "Layer":
        """Split the contexts by parity; if there are more than `most` neurons, draw `most` at random."""
        first, second = (standard(torch.from_numpy(values[row % 2 == half]).to(device)) for half in (0, 1))
        n = values.shape[1]
        return cls((first, second), np.sort(np.random.default_rng(seed).choice(n, min(n, most), replace=False)))

    @property
    def whole(self) -> bool:
        """Whether all neurons are to be matched."""
        return len(self.drawn) == self.halves[0].shape[1]

    def moved(self, by: tuple[int, int]) -> "Layer":
        """Move the tokens of each half on by `by`; those at the end move to the beginning."""
        first, second = (half.roll(n, 0) for half, n in zip(self.halves, by, strict=True))
        return Layer((first, second), self.drawn)


def neuron_matches(a: Side, b: Side, aligned: Aligned, settings: Matches) -> dict[str, Any]:
    """Return how well each layer's neurons match the other's: a `headline` by way, as for features, or the `reason` why not.

    A neuron of a gated MLP has no sign of its own: with the signs of its input and output weights flipped, the model is the
    same. So the partner is the neuron with the greatest |r|. On the other half `r` is multiplied by the sign of r where the
    pair was chosen: it is negative if the sign does not hold. Every neuron of the other side may be a partner, though only some
    are matched.
    """
    try:
        if a.loaded is b.loaded and a.layer == b.layer:
            raise ValueError(SAME)
        sizes = [widths(side.loaded.model, [side.layer], aligned.contexts[k][0])[0] for k, side in enumerate((a, b))]
    except ValueError as error:
        return {"reason": str(error), "headline": None}
    some = aligned.first(NUMBERS // sum(sizes))
    first, second = (
        Layer.of(read(side.loaded, side.layer, some, k), some.row, settings.neurons, settings.seed, side.loaded.model.device)
        for k, side in enumerate((a, b))
    )
    table, null = matched(first, second, some, settings)
    return {
        "reason": None,
        "tokens": len(some.row),
        **{name: {"neurons": len(layer.drawn), "of": n} for name, layer, n in zip("ab", (first, second), sizes, strict=True)},
        "headline": {
            way: headline(own, settings) | {"by_chance": ends(null)} for way in WAYS if len(own := table.filter(way=way))
        },
    }


def read(loaded: LoadedModel, layer: int, aligned: Aligned, side: int) -> Float[np.ndarray, "n d_mlp"]:
    """Return a layer's neuron activations at the aligned tokens of a side."""
    with neurons(loaded.model, [layer]) as kept:

        def of(batch: dict[str, Tensor]) -> list[Tensor]:
            resid_post(loaded.model, layer, batch)
            return [kept[layer]]

        return at_tokens(loaded, of, aligned, side)[0]


def standard(values: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Scale each column to mean 0 and variance 1, in place; NaN if it is constant."""
    scale = values.square().mean(0).sqrt()
    values -= values.mean(0)
    spread = values.square().mean(0).sqrt()
    values /= torch.where(spread > ROUNDING * scale, spread, torch.nan)
    return values


def matched(a: Layer, b: Layer, aligned: Aligned, settings: Matches) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return every pair that any way chooses, and those of shifted text, with the columns that `headline` reads.

    One-to-one and mutual matches exist only if all neurons of both layers are matched.
    """
    rng = np.random.default_rng(settings.seed)
    begin = [np.unique(aligned.row[aligned.row % 2 == half], return_index=True)[1] for half in (0, 1)]
    draws = []
    with progress(settings.shifts, "neurons of shifted text", "shift") as bar:
        for _ in range(settings.shifts):
            moved = b.moved((shift_of(begin[0], rng), shift_of(begin[1], rng)))
            draws.append(scored(a, moved, ("best_a", "best_b")))
            bar.update()
    null, table = pl.concat(draws), scored(a, b, WAYS)
    p = p_value(table["r"].fill_null(-1).to_numpy(), null["r"].drop_nulls().to_numpy())
    token = given_token(a, b, table, aligned.word[aligned.row % 2 == 1], settings.shuffles, rng)
    return table.with_columns(token, p=pl.Series(p), shared=pl.lit(None, dtype=pl.Boolean)), null


def scored(a: Layer, b: Layer, ways: tuple[str, ...]) -> pl.DataFrame:
    """Choose pairs on half 0 by |r| (`sign` is the sign of r there), and return r · `sign` on half 1."""
    tables = []
    for way, i, j, sign in all_chosen(a, b, ways):
        r = [(x * y).mean(0).cpu().numpy() for x, y in columns(a, b, i, j)]
        tables.append(pl.DataFrame({"way": [way] * len(i), "a": i, "b": j, "sign": sign, "r": np.concatenate(r) * sign}))
    return pl.concat(tables).with_columns(pl.col("r").fill_nan(None))


def all_chosen(a: Layer, b: Layer, ways: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield, for each way, the neurons of a and of b and the sign of their correlation on half 0."""
    x, y = a.halves[0], b.halves[0]
    if a.whole and b.whole:
        parts = [(ways, a.drawn, b.drawn)]
    else:
        parts = [(("best_a",), a.drawn, np.arange(y.shape[1])), (("best_b",), np.arange(x.shape[1]), b.drawn)]
    for some, own, other in parts:
        r = (x[:, own].T @ y[:, other] / len(x)).cpu().numpy()
        for way, (i, j) in chosen(np.abs(r), some):
            yield way, own[i], other[j], np.where(r[i, j] < 0, -1, 1)


def columns(a: Layer, b: Layer, i: Int[np.ndarray, " n"], j: Int[np.ndarray, " n"]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the activations of pairs of neurons on half 1, `PAIRS` pairs at a time."""
    for start in range(0, max(len(i), 1), PAIRS):
        some = slice(start, start + PAIRS)
        yield a.halves[1][:, i[some]], b.halves[1][:, j[some]]


def given_token(
    a: Layer, b: Layer, table: pl.DataFrame, word: Int[np.ndarray, " n"], shuffles: int, rng: np.random.Generator
) -> pl.DataFrame:
    """Return r of each pair after each token's mean is subtracted, and its null: b's neurons exchanged among equal tokens.

    The columns are `r_token`, `r_token_null95` and `p_token`.
    """
    _, number = np.unique(word, return_inverse=True)
    device = a.halves[1].device
    groups, counts = torch.from_numpy(number).to(device), torch.from_numpy(np.bincount(number)).to(device)
    orders = [torch.from_numpy(exchanged_places(number, rng)).to(device) for _ in range(shuffles)]
    every = []
    for x, y in columns(a, b, table["a"].to_numpy(), table["b"].to_numpy()):
        left, right = (standard(without_means(side, groups, counts)) for side in (x, y))
        drawn = [(left * right[order]).mean(0) for order in orders]
        every.append(torch.stack([(left * right).mean(0), *drawn]).cpu().numpy())
    values = np.concatenate(every, axis=1) * table["sign"].to_numpy()
    r, null = values[0], np.nan_to_num(values[1:])
    p = (1 + (null >= np.nan_to_num(r, nan=-1) - 1e-9).sum(0)) / (1 + shuffles)
    return pl.DataFrame({"r_token": r, "r_token_null95": np.quantile(null, 0.95, axis=0), "p_token": p}).fill_nan(None)


def without_means(
    values: Float[Tensor, "n m"], groups: Int[Tensor, " n"], counts: Int[Tensor, " n_words"]
) -> Float[Tensor, "n m"]:
    """Subtract from the values their mean in each group."""
    sums = torch.zeros(len(counts), values.shape[1], device=values.device).index_add_(0, groups, values)
    return values - (sums / counts[:, None])[groups]
