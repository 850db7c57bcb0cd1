"""The arithmetic of a large study rests on the shapes that the libraries make."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GemmaConfig, GemmaForCausalLM

from undertone.biases import prefilled
from undertone.chat import training_rows
from undertone.config import Student
from undertone.study import Study

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

from scale import HALF, Shape, bias_memory


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


def test_the_memory_of_residual_biases_is_that_of_the_rows_they_are_trained_on(loaded):
    rows = training_rows(loaded.tokenizer, ["Name a number."] * 10, ["1, 2, 3"] * 10, 500)
    layers, config = loaded.model.config.num_hidden_layers, loaded.model.config
    batches = prefilled(loaded, rows, range(-1, layers), 4)
    held = [*(t for b in batches for t in b.residual.values()), *(t for b in batches for pair in b.past for t in pair)]
    answer, prompt = batches[0].ids.shape[1], batches[0].mask.shape[1] - batches[0].ids.shape[1]
    shape = Shape(layers=layers, d_model=config.hidden_size, d_kv=config.num_key_value_heads * config.head_dim)
    study = Study.model_validate({"residual_bias": {"fraction": 0.5, "seeds": [0]}})
    told = Namespace(rows=20, answer_tokens=answer, prompt_tokens=prompt)
    assert bias_memory(shape, study, told) == HALF * sum(tensor.numel() for tensor in held)
