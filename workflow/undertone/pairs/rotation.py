"""How well one model's SAE explains another model's activations once these are rotated into the first model's axes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int

from undertone.pairs.activity import Side, read_sides
from undertone.pairs.aligned import Aligned
from undertone.runtime.files import Stamp, read_parquet, write_json
from undertone.saes.decoder import directions
from undertone.stats.similarities import rotation
from undertone.stats.stats import p_value
from undertone.study.config.pair_settings import Matches, Rotation

# Cosine above which the decoder rows of a match count as the same.
SAME = 0.7
# Tokens that an SAE rebuilds at once.
CHUNK = 2**14
Points = Float[np.ndarray, "n d"]
Errors = tuple[Float[np.ndarray, " n_contexts"], Float[np.ndarray, " n_contexts"]]


class Map(NamedTuple):
    """A map of activations of b to those of a, and back: (x − `mean_b`) `there` + `mean_a`."""

    there: Float[np.ndarray, "d_b d_a"]
    back: Float[np.ndarray, "d_a d_b"]


class Streams(NamedTuple):
    """Residual streams of both models at the same tokens: the half that maps are fitted on, and the half they are scored on."""

    fit_a: Points
    fit_b: Points
    score_a: Points
    score_b: Points
    fit_row: Int[np.ndarray, " n_fit"]
    score_row: Int[np.ndarray, " n_score"]

    @classmethod
    def of(cls, aligned: Aligned, a: Side, b: Side) -> "Streams":
        """Split the contexts by parity."""
        half = aligned.row % 2 == 0
        x, y = (side.residuals.astype(np.float64) for side in (a, b))
        return cls(x[half], y[half], x[~half], y[~half], aligned.row[half], aligned.row[~half])


def make_rotation(
    models: Sequence[Path],
    saes: Sequence[Path],
    texts: Sequence[Path],
    matches: Path,
    turned: Path,
    matching: Matches,
    settings: Rotation,
    stamp: Stamp,
) -> str:
    """Write how much of model b's activations SAE a explains through each map; return a line for the log.

    Every map is fitted on half 0 of the contexts and scored on half 1. SAEs of two seeds were found to explain little of each
    other's model as it is, and nearly all after one rotation ("Polymorphism is rotation", arXiv 2605.24577).
    """
    aligned, a, b, outliers = read_sides(models, saes, texts, matching.tokens, matching.max_norm)
    streams = Streams.of(aligned, a, b)
    maps = fitted(streams, settings)
    scores = {name: estimate(errors(a, streams, each), settings) for name, each in maps.items()}
    null = [explained(errors(a, streams, each)) for each in by_chance(streams, settings)]
    seen = scores["procrustes"]["explained_variance"]
    own = estimate(reconstruction(b, streams.score_b, streams.score_row), settings)
    body = {
        "tokens": len(aligned.row),
        "outliers": outliers,
        "same_model": models[0] == models[1],
        "a_of_a": estimate(reconstruction(a, streams.score_a, streams.score_row), settings),
        "b_of_b": own,
        "a_of_b": scores,
        "null": {"mean": float(np.mean(null)), "sd": float(np.std(null, ddof=1)), "p": float(p_value(seen, np.array(null)))},
        "decoder": decoder_rows(read_parquet(matches), a, b, maps["procrustes"], settings),
    }
    write_json(turned, body, stamp)
    return f"SAE a explains {seen:.2f} of b's variance after one rotation, SAE b {own['explained_variance']:.2f}"


def fitted(streams: Streams, settings: Rotation) -> dict[str, Map]:
    """Fit the maps: best rotation, affine map by ridge regression, and for equal widths identity and a random rotation."""
    x, y = streams.fit_a - streams.fit_a.mean(0), streams.fit_b - streams.fit_b.mean(0)
    turn = rotation(y, x)
    maps = {"procrustes": Map(turn, turn.T), "ridge": Map(ridge(y, x, settings.ridge), ridge(x, y, settings.ridge))}
    if x.shape[1] != y.shape[1]:
        return maps
    noise = np.random.default_rng(settings.seed).standard_normal(turn.shape)
    random = np.linalg.qr(noise)[0]
    return {"identity": Map(np.eye(len(turn)), np.eye(len(turn))), "random": Map(random, random.T), **maps}


def ridge(x: Float[np.ndarray, "n d_x"], y: Float[np.ndarray, "n d_y"], share: float) -> Float[np.ndarray, "d_x d_y"]:
    """Return the linear map from x to y of least squared error, with `share` of x's mean variance added to its variances."""
    square = x.T @ x
    return np.linalg.solve(square + share * np.trace(square) / len(square) * np.eye(len(square)), x.T @ y)


def by_chance(streams: Streams, settings: Rotation) -> list[Map]:
    """Return rotations fitted with b's contexts shifted against a's."""
    n, rng = len(streams.fit_row), np.random.default_rng(settings.seed)
    begin = np.unique(streams.fit_row, return_index=True)[1]
    inner = begin[(begin >= n // 10) & (begin <= n - n // 10)]
    x, y = streams.fit_a - streams.fit_a.mean(0), streams.fit_b - streams.fit_b.mean(0)
    turns = [rotation(np.roll(y, by, axis=0), x) for by in rng.choice(inner, settings.shifts)]
    return [Map(turn, turn.T) for turn in turns]


def errors(a: Side, streams: Streams, through: Map) -> Errors:
    """Return, by context, squared errors and squares around the mean of b's activations rebuilt by SAE a through a map."""
    mean_a, mean_b = streams.fit_a.mean(0), streams.fit_b.mean(0)
    rebuilt = (rebuild(a, (streams.score_b - mean_b) @ through.there + mean_a) - mean_a) @ through.back + mean_b
    return by_context(streams.score_b, rebuilt, streams.score_row)


def reconstruction(side: Side, x: Points, row: Int[np.ndarray, " n"]) -> Errors:
    """Return the same sums as `errors` for a model's activations rebuilt by its own SAE."""
    return by_context(x, rebuild(side, x), row)


@torch.no_grad()
def rebuild(side: Side, x: Points) -> Points:
    """Return an SAE's reconstruction of activations."""
    device = side.sae.W_dec.device
    parts = torch.split(torch.from_numpy(x).float(), CHUNK)
    return torch.cat([side.sae(part.to(device)).cpu() for part in parts]).double().numpy()


def by_context(x: Points, rebuilt: Points, row: Int[np.ndarray, " n"]) -> Errors:
    """Sum over each context's tokens the squared error, and the square around the mean of all tokens."""
    _, number = np.unique(row, return_inverse=True)
    error, square = (np.sum(each**2, axis=1) for each in (x - rebuilt, x - x.mean(0)))
    return np.bincount(number, error), np.bincount(number, square)


def explained(sums: Errors) -> float:
    """Explained variance: 1 − Σ‖x − x̂‖² / Σ‖x − x̄‖²."""
    return float(1 - sums[0].sum() / sums[1].sum())


def estimate(sums: Errors, settings: Rotation) -> dict[str, Any]:
    """Explained variance with its 95 % bootstrap interval over contexts."""
    n, rng = len(sums[0]), np.random.default_rng(settings.seed)
    weights = rng.multinomial(n, np.full(n, 1 / n), settings.bootstraps)
    drawn = 1 - (weights @ sums[0]) / (weights @ sums[1])
    return {"explained_variance": explained(sums), "ci95": [float(end) for end in np.quantile(drawn, [0.025, 0.975])]}


def decoder_rows(table: pl.DataFrame, a: Side, b: Side, turn: Map, settings: Rotation) -> dict[str, Any] | None:
    """Return cosines of matched decoder rows, b's rotated into a's axes, and of shuffled pairs; None without a match."""
    kept = table.filter(pl.col("trivial").is_null(), way="one")
    if kept.is_empty():
        return None
    rows = [directions(side.sae).double().cpu().numpy() for side in (a, b)]
    x, y = rows[0][kept["a"].to_numpy()], rows[1][kept["b"].to_numpy()] @ turn.there
    x, y = (side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12) for side in (x, y))
    rng = np.random.default_rng(settings.seed)
    cosines, others = np.sum(x * y, axis=1), np.sum(x * y[rng.permutation(len(y))], axis=1)
    return {
        "pairs": len(kept),
        "median_cosine": float(np.median(cosines)),
        "above_07": float(np.mean(cosines > SAME)),
        "shuffled": {"median_cosine": float(np.median(others)), "above_07": float(np.mean(others > SAME))},
    }
