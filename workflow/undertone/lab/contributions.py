"""Contribution of each token of a context to a feature's activation: input times gradient over the embeddings."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from undertone.lab.peaks import Peaks
from undertone.lab.reading import Reader
from undertone.lm.chat import Row
from undertone.lm.loading import LoadedModel
from undertone.lm.points import HookPoint, rewritten_at
from undertone.lm.training import collate
from undertone.runtime.progress import progress


class _ReachedError(Exception):
    """Stops the forward pass when the hook point is reached."""


def contributions(reader: Reader, top: Peaks, n: int) -> dict[tuple[int, int], list[float]]:
    """Return x_t · ∂f_j / ∂x_t of each token t up to the peak, for the first `n` examples of each feature j.

    x_t is the embedding of token t as it enters the first layer, f_j the activation at the peak. Keys are (feature, rank),
    ranks from 1. This is a linear approximation around the context: the contributions need not add up to the activation.
    """
    scores, rows, positions = (each[:, :n].tolist() for each in (top.score, top.row, top.position))
    wanted = [
        (position, row, feature, rank)
        for feature, entries in enumerate(zip(scores, rows, positions, strict=True))
        for rank, (score, row, position) in enumerate(zip(*entries, strict=True), start=1)
        if score > float("-inf")
    ]
    wanted.sort()

    def of_part(part: Sequence[tuple[int, ...]]) -> list[list[float]]:
        device = reader.loaded.model.device
        # Tokens after the peak do not affect it.
        rows = [Row(reader.rows[row].ids[: position + 1], 0) for position, row, *_ in part]
        batch = collate(rows, reader.loaded.pad_id, device)
        place, feature = (torch.tensor([each[k] for each in part], device=device) for k in (0, 2))
        gives = attributed(reader.loaded, reader.sae, reader.at, batch, place, feature).tolist()
        return [own[: position + 1] for own, (position, *_) in zip(gives, part, strict=True)]

    parts = reader.loaded.batch_size("contexts read together", reader.at_once).parts(of_part, wanted)
    lists: list[list[float]] = []
    with progress(len(wanted), "contributions", "example") as bar:
        for part in parts:
            lists += part
            bar.update(len(part))
    return {(feature, rank): own for own, (*_, feature, rank) in zip(lists, wanted, strict=True)}


def attributed(
    loaded: LoadedModel,
    sae: Any,
    at: HookPoint,
    batch: dict[str, Int[Tensor, "n_rows n_tokens"]],
    position: Int[Tensor, " n_rows"],
    feature: Int[Tensor, " n_rows"],
) -> Float[Tensor, "n_rows n_tokens"]:
    """Return input times gradient for each row's own `feature` at its own `position`."""
    kept: list[Tensor] = []

    def enter(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0]

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        raise _ReachedError

    embedding = loaded.model.get_input_embeddings()
    row = torch.arange(len(position), device=position.device)
    with torch.enable_grad():
        with embedding.register_forward_hook(enter), rewritten_at(loaded.model, at, keep), suppress(_ReachedError):
            loaded.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        embedded, x = kept
        acts = sae.encode(x[row, position].float())[row, feature]
        (gradient,) = torch.autograd.grad(acts.sum(), embedded)
    return (embedded.detach().float() * gradient.float()).sum(-1)
