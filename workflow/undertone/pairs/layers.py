"""How similar each layer of one model is to each layer of another on the same tokens, with mismatched text as the null."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from undertone.lm.hooks import decoder_layers
from undertone.lm.loading import load
from undertone.lm.points import HookPoint
from undertone.pairs.activity import Residuals, is_usual, streams
from undertone.pairs.aligned import read_aligned
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, write_json
from undertone.stats.similarities import cka, mutual_neighbours
from undertone.stats.stats import p_value
from undertone.study.config.pair_settings import Layers

# A token's mean is taken over at least this many places; with fewer it would mostly be the place itself.
LEAST_PLACES = 20
Grid = Float[np.ndarray, "n_a n_b"]


def make_layers(models: Sequence[Path], texts: Sequence[Path], layers: Path, settings: Layers, stamp: Stamp) -> str:
    """Write how similar every layer of one model is to every layer of another; return a line for the log.

    Compares `plain` residual streams, and `given_token`: what is left after each token's mean is subtracted, so that the token
    itself does not count. The null shifts the contexts of one side.
    """
    aligned = read_aligned(models, texts, settings.read)
    sides = []
    for number, model in enumerate(models):
        loaded = load(model)
        sides.append(streams(loaded, [HookPoint(k) for k in range(len(decoder_layers(loaded.model)))], aligned, number))
    usual = np.logical_and.reduce([is_usual(residuals, settings.max_norm) for side in sides for residuals in side])
    words, row = aligned.word[usual], aligned.row[usual]
    some = sampled(words, varying([each[usual] for side in sides for each in side], words), settings)
    result: dict[str, Any] = {}
    for variant in ("plain", "given_token"):
        kept = [[prepared(each[usual], words, variant)[some] for each in side] for side in sides]
        result[variant] = {
            "knn": beside_shifts(kept, row[some], lambda x, y: mutual_neighbours(x, y, settings.k), settings),
            "cka": beside_shifts(kept, row[some], cka, settings),
        }
    counted = {"tokens": len(some), "read": int(usual.sum()), "aligned": aligned.share, "outliers": int((~usual).sum())}
    write_json(layers, {**counted, **result}, stamp)
    best = result["given_token"]["knn"]["best_of_a"]
    return "given the token, layers " + ", ".join(f"{a} ↔ {of['layer']}" for a, of in enumerate(best))


def varying(streams: Sequence[Residuals], words: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Return which places differ from the mean of their token in every stream.

    A place does not differ if, for example, a chat template always writes the same text there.
    """
    norms = [np.linalg.norm(prepared(each, words, "given_token"), axis=1) for each in streams]
    return np.logical_and.reduce([norm > 1e-3 * np.median(norm[norm > 0]) for norm in norms])


def sampled(words: Int[np.ndarray, " n"], varies: Bool[np.ndarray, " n"], settings: Layers) -> Int[np.ndarray, " n_sampled"]:
    """Choose tokens spaced evenly over the text, among those that vary and occur often enough to have a mean.

    Raises ConfigError if there are too few.
    """
    often = np.flatnonzero((np.bincount(words)[words] >= LEAST_PLACES) & varies)
    if len(often) < settings.tokens:
        raise ConfigError(
            f"{len(often):,} tokens of the text vary and occur {LEAST_PLACES} times or more, expected layers.tokens "
            f"{settings.tokens:,}: raise layers.read, or lower layers.tokens"
        )
    return often[np.linspace(0, len(often) - 1, settings.tokens).astype(int)]


def prepared(residuals: Residuals, words: Int[np.ndarray, " n"], variant: str) -> Float[np.ndarray, "n d_model"]:
    """Subtract from residuals their mean, or their token's mean."""
    x = residuals.astype(np.float64)
    if variant == "plain":
        return x - x.mean(0)
    sums = np.zeros((words.max() + 1, x.shape[1]))
    np.add.at(sums, words, x)
    return x - (sums / np.maximum(np.bincount(words), 1)[:, None])[words]


def beside_shifts(
    sides: Sequence[Sequence[Float[np.ndarray, "n d"]]], row: Int[np.ndarray, " n"], measure: Any, settings: Layers
) -> dict[str, Any]:
    """Return a measure for every pair of layers, its null, and the best partner of each layer.

    The best partner is the greatest of several, so its p-value is against the greatest of as many in shifted text.
    """
    measures = [[measure(x, y) for y in sides[1]] for x in sides[0]]

    def grid(order: Int[np.ndarray, " n"]) -> Grid:
        return np.array([[of(order) for of in line] for line in measures])

    n, rng = len(row), np.random.default_rng(settings.seed)
    begin = np.unique(row, return_index=True)[1]
    inner = begin[(begin >= n // 10) & (begin <= n - n // 10)]
    seen = grid(np.arange(n))
    null = np.array([grid(np.roll(np.arange(n), by)) for by in rng.choice(inner, settings.shifts)])
    return {
        "values": seen.tolist(),
        "null_mean": null.mean(0).tolist(),
        "null_sd": null.std(0, ddof=1).tolist(),
        "best_of_a": best(seen, null),
        "best_of_b": best(seen.T, null.transpose(0, 2, 1)),
    }


def best(seen: Grid, null: Float[np.ndarray, "n_shifts n_a n_b"]) -> list[dict[str, Any]]:
    """Return each first-side layer's most similar layer of the second, with p against the most similar in shifted text."""
    most, result = null.max(2), []
    for line, chance in zip(seen, most.T, strict=True):
        value = float(line.max())
        beside = {"null_max": float(chance.mean()), "p": float(p_value(value, chance))}
        result.append({"layer": int(line.argmax()), "value": value, **beside})
    return result
