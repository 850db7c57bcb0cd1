"""The projection difference: how far a dataset's activations lie from the base model's along the directions of personas.

A persona moves the residual stream at the position before the answer. Chen et al. 2025 (arXiv 2507.21509) project the
activations on a dataset onto that direction and subtract those on the model's own answers to the same prompts.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from undertone.detect.pairs import Swapped, signs
from undertone.detect.sets import Pairs, Reading, ranking, read_sets
from undertone.lm.chat import Row, prompt_ids, training_rows
from undertone.lm.hooks import streams
from undertone.lm.loading import LoadedModel, load
from undertone.lm.sampling import order_by_length
from undertone.models.bank import Bank
from undertone.runtime.files import Stamp
from undertone.runtime.progress import progress
from undertone.study.config.detect import Detectors, Personas
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher


def read_projection(
    model: Path,
    matched: Path,
    bank: Path,
    projection: Path,
    personas: Personas,
    settings: Detectors,
    pref: Pref,
    teacher: Teacher,
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Write `projection.json`: presence by the largest projection difference, candidates by their own largest over layers.

    A candidate's score is its projection difference in standard errors over pairs (z), at the layer where it is largest, given
    in `layers`. Directions use the first `personas.coarse` wordings, on as many prompts as the first round of `personas` has
    rows.
    """
    loaded, entries = load(model), Bank.read(bank)

    def read(pairs: Pairs) -> Reading:
        prompts = pairs.prompts[: personas.rows[0]]
        along = directions(loaded, prompts, entries, pref.candidates, teacher.separator, personas, settings.batch_size)
        with progress(2 * len(pairs.own), f"projection {projection.parent.name}", "row") as bar:
            moved = differences(loaded, pairs, settings.batch_size, bar.update)
        values = scaled(torch.einsum("nld,kld->nkl", moved, along).numpy())
        z = np.sqrt(len(values)) * values.mean(0)
        layer = z.argmax(1)
        best = np.take_along_axis(values, layer[None, :, None], axis=2)[:, :, 0]
        presence = largest(values.reshape(len(values), -1), settings.permutations, settings.seed)
        layers = dict(zip(pref.candidates, layer.tolist(), strict=True))
        return Reading(presence, ranking(pref.candidates, z.max(1), best, pairs.prompts, settings), {"layers": layers})

    read_sets(matched, projection, read, settings, stamp, scratch)


def directions(
    loaded: LoadedModel,
    prompts: Sequence[str],
    bank: Bank,
    concepts: Sequence[str],
    separator: str,
    settings: Personas,
    batch_size: int,
) -> Float[Tensor, "n_concepts n_layers d_model"]:
    """Return unit vectors along which each concept's personas move the residual stream at a prompt's last token.

    They are means over prompts and wordings, minus their mean over concepts and without their first principal direction: what
    personas share says little about their concepts.
    """

    def moved_to(system: str | None) -> Tensor:
        ids = prompt_ids(loaded.tokenizer, prompts, system, separator)
        return residuals(loaded, [Row(each, len(each) - 1) for each in ids], batch_size).mean(0)

    none = moved_to(None)
    by_wording = [
        torch.stack([moved_to(bank.prompt((name, concept))) - none for concept in concepts])
        for name in bank.first(settings.coarse)
    ]
    return without_shared(torch.stack(by_wording).mean(0))


def without_shared(moves: Float[Tensor, "n_concepts n_layers d_model"]) -> Float[Tensor, "n_concepts n_layers d_model"]:
    """Subtract the mean over concepts, remove each layer's first principal direction, and scale to unit length."""
    centred = (moves - moves.mean(0)).transpose(0, 1)
    shared = torch.linalg.svd(centred, full_matrices=False)[2][:, :1]
    left = (centred - centred @ shared.mT @ shared).transpose(0, 1)
    # With fewer than three concepts only rounding errors are left.
    length = left.norm(dim=-1, keepdim=True)
    return torch.where(length > 1e-9 * moves.norm(dim=-1, keepdim=True), left / length, 0.0)


def differences(
    loaded: LoadedModel, pairs: Pairs, batch_size: int, tell: Callable[[int], object]
) -> Float[Tensor, "n n_layers d_model"]:
    """Return each row's mean residual stream over its completion's tokens, minus that of the base model's completion."""
    own, base = (
        residuals(loaded, training_rows(loaded.tokenizer, pairs.prompts, texts), batch_size, tell)
        for texts in (pairs.own, pairs.base)
    )
    return own - base


@torch.no_grad()
def residuals(
    loaded: LoadedModel, rows: Sequence[Row], batch_size: int, tell: Callable[[int], object] = lambda n: None
) -> Float[Tensor, "n_rows n_layers d_model"]:
    """Return the mean residual stream after every layer, over each row's tokens from its `start` on."""
    order = order_by_length([row.ids for row in rows])

    def mean(batch: dict[str, Tensor]) -> Tensor:
        weight = functional.normalize((batch["labels"] != -100).double(), p=1, dim=1)
        layers = [torch.einsum("rt,rtd->rd", weight, x.double()) for _, x in streams(loaded.model, batch)]
        tell(len(weight))
        return torch.stack(layers, dim=1).cpu()

    parts = list(loaded.read(mean, [rows[i] for i in order], batch_size))
    return torch.cat(parts)[np.argsort(order)]


def scaled(values: Float[np.ndarray, " *shape"]) -> Float[np.ndarray, " *shape"]:
    """Divide values by their root mean square: √n times their mean is z, if their true mean is 0. Constant zeros stay 0.

    Exchanging a pair's completions flips the sign of its values and leaves the scale unchanged.
    """
    scale = np.sqrt(np.square(values).mean(0))
    return values / np.where(scale > 0, scale, np.inf)


def largest(values: Float[np.ndarray, "n m"], permutations: int, seed: int) -> Swapped:
    """Test whether all columns have mean 0: the largest |z| of `scaled` values, against random signs."""
    n = len(values)
    null = np.concatenate([np.abs(s @ values).max(1) / np.sqrt(n) for s in signs(permutations, n, seed)])
    return Swapped.of(float(np.abs(values.sum(0)).max() / np.sqrt(n)), null)
