"""Reading contexts with an SAE: its activations on their text tokens, batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from sae_lens import SAE
from torch import Tensor
from torch.nn.functional import pad

from undertone.lm.chat import Row
from undertone.lm.loading import LoadedModel
from undertone.lm.points import HookPoint, check_point, read_at
from undertone.lm.sampling import order_by_length
from undertone.lm.training import collate
from undertone.runtime.errors import ConfigError

Result = TypeVar("Result")
# Most contexts read at a time, and most numbers in their activations.
ROWS, NUMBERS = 64, 2**24
# Contexts sampled for the median norm.
SAMPLED = 64
# Odd multipliers of a hash that wraps around 64 bits.
MULTIPLIERS = (-7046029254386353131, -4417276706812531889, -3335678366873096957, 1609587929392839161)


@dataclass(frozen=True)
class Read:
    """A batch of contexts and an SAE's activations on them.

    `row` holds the contexts' numbers in their table. `ids` is -1 at padding. `text` marks text tokens, `kept` those of them
    that are read; `acts` is 0 elsewhere. `residual` is the SAE's input.
    """

    row: Int[Tensor, " n_rows"]
    ids: Int[Tensor, "n_rows n_tokens"]
    text: Bool[Tensor, "n_rows n_tokens"]
    kept: Bool[Tensor, "n_rows n_tokens"]
    acts: Float[Tensor, "n_rows n_tokens d_sae"]
    residual: Float[Tensor, "n_rows n_tokens d_model"]
    before: int
    after: int

    @cached_property
    def windows(self) -> Int[Tensor, "n_rows n_tokens"]:
        """A hash of the token ids that are shown with each token."""
        shown = pad(self.ids + 2, (self.before, self.after)).unfold(1, self.before + 1 + self.after, 1)
        return hashed(shown)

    def around(
        self, at: Int[Tensor, "d_sae n"], position: Int[Tensor, "d_sae n"], feature: Int[Tensor, "d_sae 1"]
    ) -> Float[Tensor, "d_sae n n_window"]:
        """Return a feature's activations on the tokens around a position of one of the batch's rows; 0 outside of the batch."""
        offsets = torch.arange(-self.before, self.after + 1, device=self.acts.device)
        places = position.unsqueeze(-1) + offsets
        inside = (places >= 0) & (places < self.ids.shape[1])
        acts = self.acts[at.unsqueeze(-1), places.clamp(0, self.ids.shape[1] - 1), feature.unsqueeze(-1)]
        return torch.where(inside, acts, 0.0)

    def draws(self, seed: int) -> Float[Tensor, "n_rows n_tokens d_sae"]:
        """Return a random number from 0 to 1 for each token and feature, which does not depend on the batch."""
        token = (self.row * 2**20).unsqueeze(1) + torch.arange(self.ids.shape[1], device=self.ids.device)
        feature = torch.arange(self.acts.shape[-1], device=self.ids.device)
        start = torch.tensor(seed, device=self.ids.device) * MULTIPLIERS[2]  # wraps around, as a Python integer would not
        mixed = token.unsqueeze(-1) * MULTIPLIERS[0] + feature * MULTIPLIERS[1] + start
        mixed = (mixed ^ (mixed >> 29)) * MULTIPLIERS[3]
        return ((mixed ^ (mixed >> 32)) & (2**24 - 1)).float() / 2**24


def hashed(ids: Int[Tensor, "*n n_window"]) -> Int[Tensor, "*n"]:
    """Hash each window of ids to a number that no other window is likely to have."""
    mixed = torch.zeros_like(ids[..., 0])
    for k in range(ids.shape[-1]):
        mixed = (mixed ^ ids[..., k]) * MULTIPLIERS[0]
        mixed = mixed ^ (mixed >> 31)
    return mixed


class Reader:
    """Reads contexts with an SAE at its hook point of a model, as often as they are needed.

    Special tokens are not read, nor are tokens whose norm is more than `max_norm` times the median.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        sae: SAE[Any],
        at: HookPoint,
        contexts: Sequence[Sequence[int]],
        max_norm: float,
        before: int,
        after: int,
    ):
        check_point(at, loaded.model)
        self.loaded, self.sae, self.at = loaded, sae, at
        self.rows = [Row(list(ids), 0) for ids in contexts]
        self.before, self.after = before, after
        longest = max(len(row.ids) for row in self.rows)
        self.at_once = max(1, min(ROWS, NUMBERS // (longest * sae.cfg.d_sae)))
        self.order = order_by_length(contexts)
        self.greatest = max_norm * self._median()

    @torch.no_grad()
    def _residual(self, indices: Sequence[int]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return a batch, the SAE's input on it in float32, and which of its tokens are text."""
        batch = collate([self.rows[i] for i in indices], self.loaded.pad_id, self.loaded.model.device)
        return batch, read_at(self.loaded.model, self.at, batch).float(), self.loaded.text_mask(batch)

    def _median(self) -> float:
        """Return the median norm of the text tokens of some contexts."""

        def norms(indices: Sequence[int]) -> Tensor:
            _, residual, text = self._residual(indices)
            return residual.norm(dim=-1)[text]

        some = self.order[:: max(1, len(self.order) // SAMPLED)]
        return float(torch.cat([*self._in_parts(norms, some)]).median())

    @torch.no_grad()
    def read(self, indices: Sequence[int]) -> Read:
        """Read these contexts. Raises ConfigError, naming the context, if an activation is NaN or infinite."""
        batch, residual, text = self._residual(indices)
        acts = self.sae.encode(residual)
        # A residual that is not finite would exceed every bound on the norm and be left out silently.
        bad = ~(acts.isfinite().all(-1) & residual.isfinite().all(-1)) & text
        if bad.any():
            first = indices[int(bad.any(1).nonzero()[0])]
            raise ConfigError(
                f"context {first}: the SAE's activations at {self.at.name} are NaN or infinite; the weights of the "
                "model or of the SAE are damaged, or overflow in their precision"
            )
        kept = text & (residual.norm(dim=-1) <= self.greatest)
        row = torch.tensor(list(indices), device=residual.device)
        ids = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -1)
        return Read(row, ids, text, kept, torch.where(kept.unsqueeze(-1), acts, 0.0), residual, self.before, self.after)

    def batches(self) -> Iterator[Read]:
        """Read all contexts, the shortest first."""
        return self._in_parts(self.read, self.order)

    def _in_parts(self, work: Callable[[Sequence[int]], Result], indices: Sequence[int]) -> Iterator[Result]:
        """Run `work` on as many of the contexts at a time as fit."""
        return self.loaded.batch_size("contexts read together", self.at_once).parts(work, indices)
