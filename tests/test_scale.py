"""The arithmetic of a large study rests on the shapes that the libraries make."""

import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GemmaConfig, GemmaForCausalLM

from undertone.config import Student

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

from scale import Shape


@pytest.fixture(scope="module")
def gemma() -> GemmaForCausalLM:
    """gemma-2b without weights."""
    shape = Shape()
    with torch.device("meta"):
        return GemmaForCausalLM(
            GemmaConfig(
                vocab_size=shape.vocab,
                hidden_size=shape.d_model,
                intermediate_size=shape.d_mlp,
                num_hidden_layers=shape.layers,
                num_attention_heads=8,
                num_key_value_heads=1,
                head_dim=256,
            )
        )


def test_parameters_are_those_of_the_model_without_its_norms(gemma):
    norms = sum(p.numel() for name, p in gemma.named_parameters() if "norm" in name)
    assert Shape().body + Shape().head == sum(p.numel() for p in gemma.parameters()) - norms


def test_a_lora_has_as_many_parameters_as_pefts(gemma):
    config = LoraConfig(r=8, target_modules=list(Student().targets), task_type="CAUSAL_LM")
    model = get_peft_model(gemma, config)
    assert Shape().lora(8) == sum(p.numel() for p in model.parameters() if p.requires_grad)
