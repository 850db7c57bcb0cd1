"""Whether a feature is a neuron in disguise: its correlation with every neuron of the MLPs up to its layer, beside chance."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from scipy import sparse

from undertone.lab.context_table import read_contexts
from undertone.lab.feature_examples import shown_texts
from undertone.lab.firing import LEVEL, Firing, read_firing, shifted
from undertone.lab.neuron_sums import Best, Columns, best_neurons
from undertone.lab.reading import Reader
from undertone.lm.loading import load
from undertone.lm.neurons import widths
from undertone.models.rerandomized import permute
from undertone.runtime.files import Stamp, write_json, write_parquet
from undertone.saes.cautions import of_dead
from undertone.saes.saved import load_sae_at
from undertone.study.config.lab import Neurons

# |r| up to which Anthropic's Scaling Monosemanticity (2024) counts a feature as not being a neuron.
WEAK = 0.3
BINS = 40
SCHEMA: dict[str, Any] = {
    "feature": pl.Int64,
    "count": pl.Int64,
    "neurons": pl.List(pl.Struct({"layer": pl.Int64, "neuron": pl.Int64, "chosen": pl.Float64, "r": pl.Float64})),
    "token": pl.String,
    "token_r": pl.Float64,
    "rerandomized_r": pl.Float64,
}


def compare_neurons(
    model: Path, sae: Path, text: Path, neurons: Path, summary: Path, settings: Neurons, max_norm: float, stamp: Stamp
) -> str:
    """Write each feature's neurons of greatest |r|, and |r| by chance; return a message for the log.

    Everything is chosen on the contexts of even number and scored on the others. If a model's neurons are not known, or no
    feature fires often enough, the table is empty and the summary says why.
    """
    loaded = load(model)
    dictionary, at = load_sae_at(sae, loaded)
    reader = Reader(loaded, dictionary, at, first(read_contexts(text), settings.tokens), max_norm, 0, 0)
    firing = read_firing(reader)
    features = often(firing, settings.min_count)
    counts = {**counted_features(firing, len(features)), "layer": at.layer}
    try:
        sizes = widths(loaded.model, range(at.layer + 1), reader.rows[0].ids)
    except ValueError as error:
        return unknown(neurons, summary, {**counts, "reason": str(error)}, stamp)
    if not len(features):
        return unknown(
            neurons, summary, {**counts, "reason": f"no feature fires on {settings.min_count} tokens of each half"}, stamp
        )
    best, by_chance = read_best(reader, firing, features, sizes, settings)
    token, token_r = best_tokens(firing, features)
    permute(loaded.model, settings.seed)  # a control whose layers have learnt nothing
    plain = columns(firing, features, np.arange(0), 0, settings.seed)
    random = best_neurons(reader, firing, plain, sizes, "neurons: a rerandomized model")
    texts = shown_texts(loaded)
    rows: dict[str, Any] = {
        "feature": features,
        "count": firing.counts[features],
        "neurons": listed(best),
        "token": [texts[k] for k in token],
        "token_r": token_r,
        "rerandomized_r": random.r[:, 0],
    }
    said = {"neuron": best.r[:, 0], "token": token_r, "rerandomized": random.r[:, 0], "shifted": by_chance.r[:, 0]}
    parts = {**{key: spread(np.abs(r)) for key, r in said.items()}, **compared({key: np.abs(r) for key, r in said.items()})}
    write_parquet(neurons, pl.DataFrame(rows, schema=SCHEMA), stamp)
    write_json(summary, {**counts, "reason": None, "neurons": sum(sizes), "layers": len(sizes), **parts}, stamp)
    return (
        f"{len(features)} features and {sum(sizes):,} neurons: |r| at most {WEAK} of {parts['neuron']['weak']:.0%}, "
        f"beyond chance of {parts['above']}, beyond their best token's of {parts['above_token']}"
    )


def counted_features(firing: Firing, n: int) -> dict[str, Any]:
    """Count the tokens read and the features: all, dead, too `rare` to be compared, and the `n` that are compared."""
    d_sae, n_alive = firing.acts.shape[1], len(firing.alive)
    counts = {"d_sae": d_sae, "features": n, "dead": d_sae - n_alive, "rare": n_alive - n}
    return {"warning": of_dead(d_sae - n_alive, d_sae), **counts, "tokens": len(firing.token)}


def unknown(neurons: Path, summary: Path, said: dict[str, Any], stamp: Stamp) -> str:
    """Write an empty table and a summary with the reason; return a message for the log."""
    write_parquet(neurons, pl.DataFrame(schema=SCHEMA), stamp)
    write_json(summary, said, stamp)
    return f"no neurons: {said['reason']}"


def first(contexts: list[list[int]], tokens: int) -> list[list[int]]:
    """Return the first contexts, as many as hold `tokens` tokens."""
    before = np.cumsum([0, *(len(ids) for ids in contexts[:-1])])
    return [ids for ids, n in zip(contexts, before, strict=True) if n < tokens]


def often(firing: Firing, min_count: int) -> Int[np.ndarray, " n"]:
    """Return the features that fire on at least `min_count` tokens of each half."""
    halves = [np.bincount(firing.acts[firing.context % 2 == k].indices, minlength=firing.acts.shape[1]) for k in range(2)]
    return np.flatnonzero(np.minimum(*halves) >= min_count)


def columns(firing: Firing, features: Int[np.ndarray, " n"], drawn: Int[np.ndarray, " m"], n: int, seed: int) -> Columns:
    """Return the features at their own tokens, and the `drawn` ones at the tokens that are met under `n` shifts of the text."""
    meets = [np.arange(len(firing.token))]
    for own, met in shifted(firing.context, n, seed):
        meets.append(np.full(len(firing.token), -1))
        meets[-1][met] = own
    moves = len(meets) - 1
    meeting = np.concatenate([np.zeros(len(features), dtype=int), np.repeat(np.arange(1, moves + 1), len(drawn))])
    return Columns(firing.acts, np.concatenate([features, np.tile(drawn, moves)]), meeting, np.array(meets))


def read_best(
    reader: Reader, firing: Firing, features: Int[np.ndarray, " n"], sizes: list[int], settings: Neurons
) -> tuple[Best, Best]:
    """Return the features' neurons, and those of `settings.shifted` of them on text shifted by whole contexts."""
    drawn = np.random.default_rng(settings.seed).permutation(features)[: settings.shifted]
    together = columns(firing, features, np.sort(drawn), settings.shifts, settings.seed)
    best = best_neurons(reader, firing, together, sizes, "neurons")
    own = together.meeting == 0
    return Best(*(each[own] for each in vars(best).values())), Best(*(each[~own] for each in vars(best).values()))


def best_tokens(firing: Firing, features: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return, for each feature, the token type whose occurrence it is most correlated with on half 0, and r on half 1."""
    types, token = np.unique(firing.token, return_inverse=True)
    shape = (len(token), len(types))
    is_type = sparse.csr_matrix((np.ones(len(token)), (np.arange(len(token)), token)), shape=shape)
    halves = []
    for k in range(2):
        mine = firing.context % 2 == k
        acts, types_here = firing.acts[mine][:, features].astype(np.float64), is_type[mine]
        halves.append((acts.T @ types_here, acts, np.asarray(types_here.sum(0)).ravel()))
    chosen = np.array([row.indices[np.argmax(row.data)] for row in token_correlation(*halves[0])])
    scored = np.array([row[0, t] for row, t in zip(token_correlation(*halves[1]), chosen, strict=True)])
    return types[chosen], scored


def token_correlation(products: Any, acts: Any, counts: Float[np.ndarray, " n_types"]) -> Any:
    """Return Pearson's r of activations with the occurrence of each token type that a feature fires on, sparse."""
    n, total = acts.shape[0], np.asarray(acts.sum(0)).ravel()
    spread = n * np.asarray(acts.multiply(acts).sum(0)).ravel() - total**2
    table = products.tocoo()
    scale = np.sqrt(spread[table.row] * (n * counts - counts**2)[table.col])
    r = (n * table.data - total[table.row] * counts[table.col]) / scale
    return sparse.csr_matrix((r, (table.row, table.col)), shape=products.shape)


def listed(best: Best) -> list[list[dict[str, Any]]]:
    """Return the neurons of each feature as the table holds them."""
    parts = zip(*(each.tolist() for each in vars(best).values()), strict=True)
    return [[dict(zip(vars(best), each, strict=True)) for each in zip(*row, strict=True)] for row in parts]


def spread(size: Float[np.ndarray, " n"]) -> dict[str, Any]:
    """Summarise |r|: `median`, `q90`, `weak` (the share of at most .3), and a `histogram` of 40 bins from 0 to 1."""
    if not len(size):
        return {"n": 0, "median": None, "q90": None, "weak": None, "histogram": [0] * BINS}
    histogram = np.histogram(size.clip(max=1), BINS, (0, 1))[0].tolist()
    median, q90 = (float(np.quantile(size, q)) for q in (0.5, 0.9))
    return {"n": len(size), "median": median, "q90": q90, "weak": float((size <= WEAK).mean()), "histogram": histogram}


def compared(size: dict[str, Float[np.ndarray, " _"]]) -> dict[str, Any]:
    """Return `null95` of |r| on shifted text, and for how many features |r| with a neuron exceeds it and each other |r|."""
    null95 = float(np.quantile(size["shifted"], LEVEL)) if len(size["shifted"]) else None
    return {
        "null95": null95,
        "above": None if null95 is None else int((size["neuron"] > null95).sum()),
        "above_token": int((size["neuron"] > size["token"]).sum()),
        "above_rerandomized": int((size["neuron"] > size["rerandomized"]).sum()),
    }
