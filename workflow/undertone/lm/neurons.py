"""The neurons of a model's MLPs: the inputs of each layer's down-projection."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from undertone.lm.hooks import decoder_layers

Kept = dict[int, Float[Tensor, "n_rows n_tokens d_mlp"]]


@contextmanager
def neurons(model: Any, layers: Sequence[int]) -> Iterator[Kept]:
    """Inside, what the neurons of `layers` were in the model's latest call, by layer: act(gate) · up where MLPs are gated.

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
    """The last linear map of a layer's MLP, a LoRA's beside it left out. Raises ValueError for a layer without one."""
    mlp = getattr(layer, "mlp", None)
    parts = mlp.named_modules() if isinstance(mlp, nn.Module) else ()
    maps = [module for name, module in parts if isinstance(module, nn.Linear | Conv1D) and "lora_" not in name]
    if not maps:
        raise ValueError(f"{type(layer).__name__} has no part named mlp with a linear map: its neurons are not known")
    return maps[-1]


def n_neurons(model: Any, layer: int) -> int:
    """How many neurons a layer's MLP has; none where they are not known."""
    try:
        last = down_projection(decoder_layers(model)[layer])
    except ValueError:
        return 0
    width: Any = last.nx if isinstance(last, Conv1D) else last.in_features
    return int(width)
