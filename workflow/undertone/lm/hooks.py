"""Read and rewrite the residual stream of a plain Hugging Face model. Names are those of TransformerLens."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
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
    """Yield a function that returns `tell(keyword arguments)` of the model's current call."""
    current: list[Tensor] = []

    def look(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        current[:] = [tell(kwargs)]

    with model.register_forward_pre_hook(look, with_kwargs=True):
        yield lambda: current[0]


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
    """Replace the residual stream after `layer`, `[n_rows, n_tokens, d_model]`, by `rewrite` of it within the `with` block."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        return (rewrite(output[0]), *output[1:]) if isinstance(output, tuple) else rewrite(output)

    with decoder_layers(model)[layer].register_forward_hook(hook):
        yield


def plus(vector: Float[Tensor, " d_model"]) -> Callable[[Tensor], Tensor]:
    """Return a rewrite that adds a vector to the residual stream."""
    return lambda residual: residual + vector.to(residual)


class _ReachedError(Exception):
    """Raised once the requested layer has run."""


@torch.no_grad()
def resid_post(
    model: Any, layer: int, batch: dict[str, Int[Tensor, "n_rows n_tokens"]]
) -> Float[Tensor, "n_rows n_tokens d_model"]:
    """Return the residual stream after `layer`. The layers above it are not run."""
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


def streams(
    model: Any, batch: dict[str, Int[Tensor, "n_rows n_tokens"]], mlp_in: bool = False
) -> list[tuple[str, Float[Tensor, "n_rows n_tokens d_model"]]]:
    """Return (`resid_post.LAYER` or `mlp_in.LAYER`, tensor) pairs of a batch, from one pass without the unembedding."""
    kept: list[tuple[str, Tensor]] = []
    last = len(decoder_layers(model)) - 1
    with ExitStack() as stack:
        for number in range(last):
            stack.enter_context(_kept(model, number, kept))
        if mlp_in:
            stack.enter_context(mlp_inputs(model, kept))
        top = resid_post(model, last, batch)
    return [*kept, (f"resid_post.{last}", top)]


@contextmanager
def _kept(model: Any, layer: int, kept: list[tuple[str, Tensor]]) -> Iterator[None]:
    """Within the `with` block, append the residual stream after `layer` to `kept`, as earlier hooks have left it."""

    def keep(residual: Tensor) -> Tensor:
        kept.append((f"resid_post.{layer}", residual))
        return residual

    with rewritten(model, layer, keep):
        yield


@contextmanager
def mlp_inputs(model: Any, kept: list[tuple[str, Tensor]]) -> Iterator[None]:
    """Within the `with` block, append the input of each layer's MLP to `kept`.

    Raises ValueError for a model whose layers have no `mlp`.
    """

    def keep(number: int) -> Any:
        return lambda module, args, kwargs: kept.append((f"mlp_in.{number}", args[0] if args else kwargs["hidden_states"]))

    with ExitStack() as stack:
        for number, layer in enumerate(decoder_layers(model)):
            mlp = getattr(layer, "mlp", None)
            if not isinstance(mlp, nn.Module):
                raise ValueError(f"{type(layer).__name__} has no part named mlp; set activations.mlp_in to false")
            stack.callback(mlp.register_forward_pre_hook(keep(number), with_kwargs=True).remove)
        yield
