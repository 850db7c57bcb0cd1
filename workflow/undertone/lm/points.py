"""Hook points that an SAE can read: the residual stream after a layer, and the output that the layer's MLP adds to it."""

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from undertone.lm.hooks import decoder_layers, layer_of, resid_post, rewritten
from undertone.study.config.saes import Sae

Point = Literal["resid_post", "mlp_out"]
MLP_OUT = re.compile(r"blocks\.(\d+)\.hook_mlp_out")
# Modules whose output a layer adds to the residual stream after attention: the norm of the MLP's output, if any, else the MLP.
WRITERS = ("post_feedforward_layernorm", "post_mlp_layernorm", "mlp")


class HookPoint(NamedTuple):
    """A place in a model, by layer."""

    layer: int
    point: Point = "resid_post"

    @property
    def name(self) -> str:
        """The name in TransformerLens."""
        return f"blocks.{self.layer}.hook_{self.point}"

    @classmethod
    def named(cls, name: str) -> "HookPoint":
        """Return the hook point of a name. Raises ValueError for a point of another kind."""
        match = MLP_OUT.fullmatch(name)
        return cls(int(match[1]), "mlp_out") if match else cls(layer_of(name))

    @classmethod
    def of(cls, settings: Sae) -> "HookPoint":
        """Return the hook point of an SAE that is trained here."""
        return cls(settings.layer, settings.point)


def check_layer(at: HookPoint, n_layers: int) -> None:
    """Raise ValueError, with a one-sentence message, if a model with `n_layers` layers has no such hook point."""
    if not 0 <= at.layer < n_layers:
        raise ValueError(f"the SAE's hook point is {at.name}, the model has layers 0 to {n_layers - 1}")


def check_point(at: HookPoint, model: Any) -> None:
    """Raise ValueError, with a one-sentence message, if the model has no such hook point."""
    layers = decoder_layers(model)
    check_layer(at, len(layers))
    if at.point == "mlp_out":
        mlp_writer(layers[at.layer])


def mlp_writer(layer: nn.Module) -> nn.Module:
    """Return the module whose output is what a layer's MLP adds to the residual stream (TransformerLens: hook_mlp_out).

    Raises ValueError for a layer without a known module of this kind: one without an MLP of that name, or one that scales the
    MLP's output or has it return the whole stream.
    """
    kind = type(layer).__name__
    parts = [part for name in WRITERS if isinstance(part := getattr(layer, name, None), nn.Module)]
    if not parts:
        raise ValueError(f"{kind} has no part named mlp, so its mlp_out is not known; take resid_post")
    if hasattr(layer, "residual_multiplier") or "residual" in inspect.signature(parts[0].forward).parameters:
        raise ValueError(f"{kind} does not add its mlp's output to the residual stream as it is; take resid_post")
    return parts[0]


@contextmanager
def rewritten_at(model: Any, at: HookPoint, rewrite: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the tensor at a hook point, `[n_rows, n_tokens, d_model]`, by `rewrite` of it within the `with` block."""
    if at.point == "resid_post":
        with rewritten(model, at.layer, rewrite):
            yield
        return

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        return (rewrite(output[0]), *output[1:]) if isinstance(output, tuple) else rewrite(output)

    with mlp_writer(decoder_layers(model)[at.layer]).register_forward_hook(hook):
        yield


@torch.no_grad()
def read_at(
    model: Any, at: HookPoint, batch: dict[str, Int[Tensor, "n_rows n_tokens"]]
) -> Float[Tensor, "n_rows n_tokens d_model"]:
    """Return the tensor at a hook point. The layers above it are not run."""
    if at.point == "resid_post":
        return resid_post(model, at.layer, batch)
    kept: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        kept.append(output.clone())  # some layers add their attention's output to it in place
        return output

    with rewritten_at(model, at, keep):
        resid_post(model, at.layer, batch)
    return kept[0]
