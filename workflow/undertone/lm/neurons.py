"""The neurons of a model's MLPs: the inputs of each layer's down-projection."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from undertone.lm.hooks import decoder_layers, resid_post

Kept = dict[int, Float[Tensor, "n_rows n_tokens d_mlp"]]


@contextmanager
def neurons(model: Any, layers: Sequence[int]) -> Iterator[Kept]:
    """Yield the neurons of `layers` in the model's latest call, by layer: act(gate) · up if MLPs are gated.

    Raises ValueError for a model whose layers have no `mlp`.
    """
    kept: Kept = {}

    def keep(number: int) -> Any:
        return lambda module, args: kept.__setitem__(number, args[0])

    with ExitStack() as stack:
        for number in layers:
            stack.callback(down_projection(decoder_layers(model)[number]).register_forward_pre_hook(keep(number)).remove)
        yield kept


def down_projection(layer: nn.Module) -> nn.Module:
    """Return the last linear map of a layer's MLP, ignoring those of a LoRA. Raises ValueError for a layer without one."""
    mlp = getattr(layer, "mlp", None)
    parts = mlp.named_modules() if isinstance(mlp, nn.Module) else ()
    maps = [module for name, module in parts if isinstance(module, nn.Linear | Conv1D) and "lora_" not in name]
    if not maps:
        raise ValueError(f"{type(layer).__name__} has no part named mlp with a linear map: its neurons are not known")
    return maps[-1]


def n_neurons(model: Any, layer: int) -> int:
    """Return the number of neurons of a layer's MLP; 0 if they are not known."""
    try:
        last = down_projection(decoder_layers(model)[layer])
    except ValueError:
        return 0
    width: Any = last.nx if isinstance(last, Conv1D) else last.in_features
    return int(width)


@torch.no_grad()
def widths(model: Any, layers: Sequence[int], ids: Sequence[int]) -> list[int]:
    """Return the number of neurons of each layer, measured by running the model on `ids`.

    Raises ValueError for a model whose layers have no MLP that every token passes.
    """
    batch = {"input_ids": torch.tensor([list(ids)], device=model.device)}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    with neurons(model, layers) as kept:
        resid_post(model, max(layers), batch)
    for layer in layers:
        if layer not in kept or kept[layer].shape[:2] != batch["input_ids"].shape:
            name = type(decoder_layers(model)[layer]).__name__
            raise ValueError(f"{name} has no MLP that every token passes: its neurons are not known")
    return [kept[layer].shape[-1] for layer in layers]
