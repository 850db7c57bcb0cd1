"""LoRA on a base model in half precision, computed in half precision while its own weights stay float32."""

from typing import Any

import torch
from jaxtyping import Float
from peft import PeftModel
from peft.tuners import lora
from torch import Tensor, nn

from undertone.lm.tensors import HALF


class HalfLinear(lora.Linear):  # type: ignore[misc]
    """PEFT's LoRA of a linear module, with matrix products in the precision of the base weights.

    PEFT casts the activations to the float32 of the LoRA's weights, multiplies there, scales, adds to the base module's output
    in float32 and casts back. These are six passes over tensors of the output's size, which on a CPU take longer than the
    products. Casting the small weights instead leaves one product that also adds. Weights, gradients and optimizer stay
    float32.
    """

    def forward(self, x: Float[Tensor, "*batch d_in"], *args: Any, **kwargs: Any) -> Float[Tensor, "*batch d_out"]:
        """Return `W x + scaling B A x`. It differs from PEFT's result only by rounding."""
        if self.disable_adapters or self.merged or kwargs.get("adapter_names") is not None:
            return super().forward(x, *args, **kwargs)
        result = self.base_layer(x).flatten(0, -2)
        for name in self.active_adapters:
            a, b = self.lora_A[name].weight.to(x.dtype), (self.scaling[name] * self.lora_B[name].weight).to(x.dtype)
            result = torch.addmm(result, self.lora_dropout[name](x).flatten(0, -2) @ a.T, b.T)
        return result.view(*x.shape[:-1], -1)


def compute_in_half(model: PeftModel) -> None:
    """Compute the plain LoRAs of linear modules in half precision in that precision. All other LoRAs stay PEFT's own."""
    for module in model.modules():
        if type(module) is lora.Linear and not module.lora_variant and is_half(module.get_base_layer()):
            module.__class__ = HalfLinear


def is_half(module: nn.Module) -> bool:
    """Whether a module is linear with weights in half precision."""
    return isinstance(module, nn.Linear) and module.weight.dtype in HALF
