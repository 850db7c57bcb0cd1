"""A LoRA in half precision beside PEFT's own, which casts what it reads to float32."""

from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners import lora
from torch import nn

from undertone.lm.lora import HalfLinear, compute_in_half

BATCH = 5


def adapted(dtype: torch.dtype, **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 96), nn.SiLU(), nn.Linear(96, 32, bias=False)).to(dtype).requires_grad_(False)
    peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["0", "2"], **options))
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    return peft


def gradients(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    out = model(x)
    out.float().square().mean().backward()
    return out, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_outputs_and_gradients_are_pefts_but_for_rounding(dtype):
    theirs = adapted(dtype)
    ours = deepcopy(theirs)
    compute_in_half(ours)
    assert sum(isinstance(module, HalfLinear) for module in ours.modules()) == 2
    x = torch.randn(BATCH, 7, 48, generator=torch.Generator().manual_seed(1)).to(dtype)
    (expected, slopes), (out, own) = gradients(theirs, x), gradients(ours, x)
    assert out.dtype == dtype
    assert (out - expected).float().norm() < 0.01 * expected.float().norm()
    assert own.keys() == slopes.keys()
    for name, slope in own.items():
        assert slope.dtype == torch.float32
        assert (slope - slopes[name]).norm() < 0.02 * slopes[name].norm()


def test_a_base_model_in_float32_keeps_pefts_own():
    model = adapted(torch.float32)
    compute_in_half(model)
    assert not any(isinstance(module, HalfLinear) for module in model.modules())


def test_a_lora_of_another_kind_keeps_pefts_own():
    model = adapted(torch.bfloat16, use_dora=True)
    compute_in_half(model)
    assert not any(isinstance(module, HalfLinear) for module in model.modules())


def test_switched_off_or_merged_it_is_the_base_model_or_the_merged_one():
    model = adapted(torch.bfloat16)
    compute_in_half(model)
    x = torch.randn(BATCH, 48, generator=torch.Generator().manual_seed(1)).bfloat16()
    with torch.no_grad():
        on = model(x)
        with model.disable_adapter():
            off = model(x)
        merged = deepcopy(model)
        for module in merged.modules():
            if isinstance(module, lora.Linear):
                module.merge()
        assert (off - on).float().norm() > 0.1 * on.float().norm()
        assert (merged(x) - on).float().norm() < 0.02 * on.float().norm()
        bare = model.unload()
        assert torch.equal(bare(x), off)
