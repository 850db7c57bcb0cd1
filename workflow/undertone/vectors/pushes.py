"""Features and random directions that are pushed by the same size: added to the residual stream, or held at a level."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor
from torch.nn.functional import normalize

from undertone.lm.points import HookPoint
from undertone.lm.steering import Steering
from undertone.saes.decoder import directions
from undertone.saes.saved import rows_at_once
from undertone.vectors.steering_by import GAUSSIAN
from undertone.vectors.streams_of_text import gaussian

# Features of like density are drawn from a pool this many times as large, of the features with the nearest density.
POOL = 4
LIKE = "features of like density"


class Strength(NamedTuple):
    """How a feature is pushed: `add` adds `multiple` times its greatest activation, `clamp` holds it at that level."""

    mode: str
    multiple: float


def strengths(at: HookPoint, multiples: Sequence[float]) -> list[Strength]:
    """Return every multiple in every mode. Features of an MLP's output cannot be held, as they are gone in the stream."""
    modes = ["add", "clamp"] if at.point == "resid_post" else ["add"]
    return [Strength(mode, multiple) for mode in modes for multiple in sorted(multiples)]


@dataclass(frozen=True)
class Push:
    """A direction of the residual stream after a layer: what a unit of a feature's activation adds.

    `level` is its activation at a multiple of 1. For a random direction, `feature` is the feature whose activation it uses.
    """

    vector: Float[Tensor, " d_model"]
    feature: int
    level: float
    sae: SAE[Any]
    layer: int

    def steering(self, strength: Strength) -> Steering:
        """Return the steering of all tokens."""
        level = strength.multiple * self.level
        if strength.mode == "add":
            return Steering("add", level * self.vector, self.layer)
        return Steering("clamp", self.vector, self.layer, sae=self.sae, feature=self.feature, level=level)

    @torch.no_grad()
    def size(self, strength: Strength, residuals: Float[Tensor, "n_tokens d_model"]) -> float:
        """Return the mean norm of what is added to residuals, as a share of their mean norm."""
        level = strength.multiple * self.level
        moved = torch.tensor([abs(level)])
        if strength.mode == "clamp":
            parts = torch.split(residuals, rows_at_once(self.sae, 1))
            acts = [self.sae.encode(part.to(self.vector))[:, self.feature].float().cpu() for part in parts]
            moved = (level - torch.cat(acts)).abs()
        return float(moved.mean() * self.vector.norm().cpu() / residuals.norm(dim=-1).mean())


def like_features(table: pl.DataFrame, feature: int, n: int, seed: int) -> pl.DataFrame:
    """Return `feature` and `density` of up to `n` others that fire about as often.

    They are drawn at random from the 4 `n` features with the nearest density, as a ratio; dead ones are left out.
    """
    own = float(table.filter(pl.col("feature") == feature)["density"][0])
    others = table.filter(~pl.col("dead") & (pl.col("feature") != feature)).select("feature", "density")
    nearest = others.sort((pl.col("density") / own).log().abs(), "feature").head(POOL * n)
    drawn = np.random.default_rng(seed).permutation(len(nearest))[:n]
    return nearest[drawn.tolist()].sort("feature")


def pushes(
    sae: SAE[Any],
    layer: int,
    table: pl.DataFrame,
    feature: int,
    residuals: Float[Tensor, "n_tokens d_model"],
    n: int,
    seed: int,
) -> tuple[Push, dict[str, list[Push]]]:
    """Return a feature of the `table` (`features.parquet`), and up to `n` nulls of each kind, of the same size.

    The nulls are features of like density, and draws from N(0, Cov) of the residuals, which use the feature's own activation.
    """
    (level,) = table.filter(pl.col("feature") == feature)["max"]
    numbers = [feature, *like_features(table, feature, n, seed)["feature"].to_list()]
    vectors = directions(sae, numbers)
    size = vectors[0].norm()
    own = Push(vectors[0], feature, level, sae, layer)
    others = [
        Push(vector, number, float(level * size / vector.norm()), sae, layer)
        for vector, number in zip(vectors[1:], numbers[1:], strict=True)
        if vector.norm() > 0
    ]
    draws = normalize(gaussian(residuals, n, torch.Generator().manual_seed(seed)), dim=-1).to(vectors)
    random = [Push(size * draw, feature, level, sae, layer) for draw in draws]
    return own, {kind: of for kind, of in ((LIKE, others), (GAUSSIAN, random)) if of}
