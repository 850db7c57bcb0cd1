"""Residual streams of two models, and features of two SAEs, at the tokens where the two can be compared."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sae_lens import SAE
from scipy.sparse import csr_array, vstack
from torch import Tensor

from undertone.lm import hooks
from undertone.lm.chat import Row
from undertone.lm.loading import LoadedModel, load
from undertone.lm.points import HookPoint, check_point, read_at
from undertone.lm.training import collate
from undertone.pairs.aligned import Aligned, read_aligned
from undertone.runtime.errors import ConfigError
from undertone.runtime.progress import progress
from undertone.saes.saved import load_sae_at

# Contexts that a model reads at once, and activations of an SAE (tokens times features) that are computed at once.
ROWS, NUMBERS = 64, 2**24
Residuals = Float[np.ndarray, "n d_model"]
Values = Float[np.ndarray, "n d"]


class Side(NamedTuple):
    """One side of a pair: a model, an SAE, the SAE's layer, and the residuals that it reads at the aligned tokens."""

    loaded: LoadedModel
    sae: SAE[Any]
    layer: int
    residuals: Residuals


def read_sides(
    models: Sequence[Path], saes: Sequence[Path], texts: Sequence[Path], tokens: int, max_norm: float
) -> tuple[Aligned, Side, Side, int]:
    """Read both sides of a pair at the tokens where they can be compared, and count the tokens left out as outliers.

    An outlier is a token whose residual norm is more than `max_norm` times the median on either side. If both sides have the
    same model, it is loaded once. Raises ConfigError, which names the side, if a residual is NaN or infinite.
    """
    aligned = read_aligned(models, texts, tokens)
    sides: list[Side] = []
    for k, (model, sae) in enumerate(zip(models, saes, strict=True)):
        loaded = sides[0].loaded if sides and models[0] == models[1] else load(model)
        dictionary, at = load_sae_at(sae, loaded)
        check_point(at, loaded.model)
        (residuals,) = streams(loaded, [at], aligned, k)
        sides.append(Side(loaded, dictionary, at.layer, residuals))
    usual = np.logical_and(*(is_usual(side.residuals, max_norm) for side in sides))
    a, b = (side._replace(residuals=side.residuals[usual]) for side in sides)
    return aligned.only(usual), a, b, int((~usual).sum())


def streams(loaded: LoadedModel, points: Sequence[HookPoint], aligned: Aligned, side: int) -> list[Residuals]:
    """Return activations at one hook point, or at several of the residual stream, at a side's aligned tokens, in float32."""
    together = at_tokens(loaded, lambda batch: every_point(loaded, points, batch), aligned, side)
    for point, residual in zip(points, together, strict=True):
        if not np.isfinite(residual).all():
            raise ConfigError(
                f"model {'ab'[side]}: what is at {point.name} is NaN or infinite; its weights are damaged, or "
                "overflow in their precision"
            )
    return together


@torch.no_grad()
def at_tokens(
    loaded: LoadedModel, read_of: Callable[[dict[str, Tensor]], Sequence[Tensor]], aligned: Aligned, side: int
) -> list[Values]:
    """What `read_of` makes of batches, tensors `[n_rows, n_tokens, d]`, at the aligned tokens of a side, in float32."""
    contexts, at = aligned.contexts[side], aligned.at[side]
    first = np.searchsorted(aligned.row, np.arange(len(contexts) + 1))
    parts: list[list[Values]] = []

    def work(rows: Sequence[int]) -> list[Values]:
        batch = collate([Row(list(contexts[row]), 0) for row in rows], loaded.pad_id, loaded.model.device)
        read = read_of(batch)
        places = [at[first[row] : first[row + 1]] for row in rows]
        which = np.repeat(np.arange(len(rows)), [len(place) for place in places])
        position = np.concatenate(places)
        return [values[which, position].float().cpu().numpy() for values in read]

    with progress(len(contexts), f"side {'ab'[side]}", "context") as bar:
        for some in loaded.batch_size("contexts read together", ROWS).parts(work, range(len(contexts))):
            parts.append(some)
            bar.update(min(ROWS, len(contexts) - bar.n))
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def every_point(loaded: LoadedModel, points: Sequence[HookPoint], batch: dict[str, Tensor]) -> list[Tensor]:
    """Return the activations of a batch at one hook point, or at several of the residual stream."""
    if len(points) == 1:
        return [read_at(loaded.model, points[0], batch)]
    every = dict(hooks.streams(loaded.model, batch))
    return [every[f"resid_post.{point.layer}"] for point in points]


def is_usual(residuals: Residuals, max_norm: float) -> Bool[np.ndarray, " n"]:
    """Which tokens have a norm of at most `max_norm` times the median."""
    norms = np.linalg.norm(residuals, axis=1)
    return norms <= max_norm * np.median(norms)


@torch.no_grad()
def features(side: Side, rows: Int[np.ndarray, " n"] | None = None) -> csr_array:
    """An SAE's activations `[n, d_sae]` at the aligned tokens."""
    residuals = side.residuals if rows is None else side.residuals[rows]
    device = side.sae.W_dec.device
    step = max(1, NUMBERS // side.sae.cfg.d_sae)
    parts = [
        csr_array(side.sae.encode(torch.from_numpy(residuals[start : start + step]).to(device)).cpu().numpy())
        for start in range(0, len(residuals), step)
    ]
    return vstack(parts, format="csr")
