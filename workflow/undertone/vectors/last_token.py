"""Steering of only a prompt's last token, which predicts an answer's first, even if the tokens before it are cached."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from undertone.lm import steering
from undertone.lm.chat import generation_prompt
from undertone.lm.hooks import of_running_call, rewritten
from undertone.lm.loading import LoadedModel
from undertone.lm.steering import Steering, only_at


@dataclass(frozen=True)
class AtLast(Steering):
    """Steering of the residual stream at the last token of each prompt, and nowhere else."""


@contextmanager
def steered(loaded: LoadedModel, by: Steering) -> Iterator[LoadedModel]:
    """Steer the model inside this context as `lm.steering.steered` does, or at prompts' last tokens alone."""
    with ExitStack() as stack:
        if isinstance(by, AtLast):
            assert by.layer is not None
            last = LastTokens(torch.tensor(generation_prompt(loaded.tokenizer), device=loaded.model.device))
            mask = stack.enter_context(of_running_call(loaded.model, last.of_call))
            stack.enter_context(rewritten(loaded.model, by.layer, only_at(mask, by.rewrite)))
        else:
            stack.enter_context(steering.steered(loaded, by))
        yield loaded


@dataclass
class LastTokens:
    """Finds which tokens of a running call are the last of the `opening` of an answer.

    A call may continue from cached tokens in the middle of the opening. So `seen` keeps the latest tokens of each cache, as
    many as the opening may have begun with. A cache that rows were taken out of holds answers, and is forgotten.
    """

    opening: Int[Tensor, " n"]
    seen: WeakKeyDictionary[Any, Tensor] = field(default_factory=WeakKeyDictionary)

    def of_call(self, call: dict[str, Any]) -> Bool[Tensor, "n_rows n_tokens"]:
        """Mark the last tokens of openings in a call, given by its keyword arguments."""
        ids, cache = call["input_ids"], call.get("past_key_values")
        whole = ids
        if cache is not None:
            before = self.seen.get(cache) if cache.get_seq_length() else None
            if before is not None and len(before) in (1, len(ids)):
                whole = torch.cat([before.expand(len(ids), -1), ids], dim=1)
            self.seen[cache] = whole[:, max(0, whole.shape[1] - len(self.opening) + 1) :]
        return ends(whole, self.opening)[:, whole.shape[1] - ids.shape[1] :]


def ends(ids: Int[Tensor, "n_rows n_tokens"], opening: Int[Tensor, " n"]) -> Bool[Tensor, "n_rows n_tokens"]:
    """Mark the places where `ids` are the last token of an opening."""
    n = len(opening)
    last = torch.zeros_like(ids, dtype=torch.bool)
    if ids.shape[1] >= n:
        last[:, n - 1 :] = (ids.unfold(1, n, 1) == opening).all(-1)
    return last
