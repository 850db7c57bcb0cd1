"""Reading and rewriting the residual stream of a plain Hugging Face model; names as in TransformerLens."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

HOOK_POINT = re.compile(r"blocks\.(\d+)\.hook_resid_post")


def hook_point(layer: int) -> str:
    """TransformerLens's name of the residual stream after a layer."""
    return f"blocks.{layer}.hook_resid_post"


def layer_of(hook_name: str) -> int:
    """The layer of a `hook_resid_post` name. Raises ValueError for any other hook point."""
    match = HOOK_POINT.fullmatch(hook_name)
    if not match:
        raise ValueError(f"hook point {hook_name!r}; expected one of the form blocks.LAYER.hook_resid_post")
    return int(match[1])


@contextmanager
def of_running_call(model: nn.Module, tell: Callable[[dict[str, Any]], Tensor]) -> Iterator[Callable[[], Tensor]]:
    """Inside, yields a function that returns `tell(keyword arguments)` of the model's running call."""
    current: list[Tensor] = []

    def look(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        current[:] = [tell(kwargs)]

    handle = model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield lambda: current[0]
    finally:
        handle.remove()


def decoder_layers(model: Any) -> nn.ModuleList:
    """The decoder layers of a causal language model, or of a PeftModel around one."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder = inner.get_decoder()
    for name in ("layers", "h", "blocks"):
        if isinstance(layers := getattr(decoder, name, None), nn.ModuleList):
            return layers
    raise ValueError(f"{type(decoder).__name__} holds no list of layers that undertone knows")


def final_norm(model: Any) -> nn.Module:
    """The norm between the last residual stream and the unembedding."""
    decoder = model.get_decoder()
    for name in ("norm", "ln_f", "final_layernorm"):
        if isinstance(norm := getattr(decoder, name, None), nn.Module):
            return norm
    raise ValueError(f"{type(decoder).__name__} has no final norm that undertone knows")


@contextmanager
def rewritten(model: Any, layer: int, rewrite: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, the residual stream after `layer`, `[n_rows, n_tokens, d_model]`, is replaced by what `rewrite` makes of it."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        return (rewrite(output[0]), *output[1:]) if isinstance(output, tuple) else rewrite(output)

    handle = decoder_layers(model)[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class _ReachedError(Exception):
    """The layer that was asked for has run."""


@torch.no_grad()
def resid_post(model: Any, layer: int, batch: dict[str, Tensor]) -> Tensor:
    """The residual stream `[n_rows, n_tokens, d_model]` after `layer`; the layers above it are not run."""
    kept: list[Tensor] = []

    def keep(residual: Tensor) -> Tensor:
        kept.append(residual)
        raise _ReachedError

    try:
        with rewritten(model, layer, keep):
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    except _ReachedError:
        pass
    return kept[0]
