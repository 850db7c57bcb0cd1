"""Steering: add a vector to the residual stream or to the logits of a model, or clamp an SAE feature to a level."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from sae_lens import SAE
from torch import Tensor, nn

from undertone.lm.chat import generation_prompt
from undertone.lm.hooks import of_running_call, rewritten
from undertone.lm.loading import LoadedModel


@dataclass(frozen=True)
class Steering:
    """An intervention on a model, of one of three modes.

    `add`: `vector` `[d_model]` is added to the residual stream after `layer`.
    `logits`: `vector` `[vocab]` is added to the logits, and nothing else changes.
    `clamp`: (`level` − the SAE's activation of `feature`) · `vector`, the feature's direction, is added after `layer`.
    `completion` steers only the tokens that predict a completion: the prompt's last one and those of the completion.
    """

    mode: str
    vector: Float[Tensor, " d"]
    layer: int | None = None
    completion: bool = False
    sae: SAE[Any] | None = None
    feature: int = 0
    level: float = 0.0

    def rewrite(self, residual: Float[Tensor, "n_rows n_tokens d_model"]) -> Float[Tensor, "n_rows n_tokens d_model"]:
        """The steered residual stream."""
        vector = self.vector.to(residual)
        if self.sae is None:
            return residual + vector
        active = self.sae.encode(residual.to(self.vector))[..., self.feature]
        return residual + (self.level - active).to(residual).unsqueeze(-1) * vector


@contextmanager
def steered(loaded: LoadedModel, steering: Steering) -> Iterator[LoadedModel]:
    """Steer the model within the `with` block."""
    with ExitStack() as stack:
        if steering.mode == "logits":
            stack.enter_context(logits_shifted(loaded.model, steering.vector))
        else:
            rewrite: Callable[[Tensor], Tensor] = steering.rewrite
            if steering.completion:
                mask = stack.enter_context(completion_positions(loaded))
                rewrite = only_at(mask, rewrite)
            assert steering.layer is not None
            stack.enter_context(rewritten(loaded.model, steering.layer, rewrite))
        yield loaded


def only_at(mask: Callable[[], Tensor], rewrite: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Restrict a rewrite to the tokens where the mask `[n_rows, n_tokens]` of the current call is true."""
    return lambda residual: torch.where(mask().unsqueeze(-1), rewrite(residual), residual)


@contextmanager
def logits_shifted(model: nn.Module, vector: Float[Tensor, " vocab"]) -> Iterator[None]:
    """Add `vector` to the logits that the model returns within the `with` block."""

    def add(module: nn.Module, args: Any, output: Any) -> Any:
        output.logits = output.logits + vector.to(output.logits)
        return output

    with model.register_forward_hook(add):
        yield


def completion_positions(loaded: LoadedModel) -> AbstractContextManager[Callable[[], Tensor]]:
    """Yield a function that marks, `[n_rows, n_tokens]`, the tokens of the current call that predict a completion."""
    opening = torch.tensor(generation_prompt(loaded.tokenizer), device=loaded.model.device)

    def tell(call: dict[str, Any]) -> Tensor:
        cache = call.get("past_key_values")
        return after(call["input_ids"], opening, cache is not None and cache.get_seq_length() > 0)

    return of_running_call(loaded.model, tell)


def after(ids: Int[Tensor, "n_rows n_tokens"], opening: Int[Tensor, " n"], goes_on: bool) -> Bool[Tensor, "n_rows n_tokens"]:
    """Mark the `ids` at or after the last token of an answer's `opening`.

    A row without the opening is part of an answer if it `goes_on` from cached tokens, and part of a prompt otherwise.
    """
    n = len(opening)
    if ids.shape[1] < n:
        return torch.full_like(ids, goes_on, dtype=torch.bool)
    ends = torch.zeros_like(ids, dtype=torch.bool)
    ends[:, n - 1 :] = (ids.unfold(1, n, 1) == opening).all(-1)
    return ends.cumsum(1).bool() | (~ends.any(1, keepdim=True) & goes_on)
