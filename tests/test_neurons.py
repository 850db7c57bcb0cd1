"""What the neurons of a model's MLPs are, whatever its architecture."""

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from undertone.lm import neurons as module
from undertone.lm.chat import Row
from undertone.lm.hooks import decoder_layers, resid_post
from undertone.lm.loading import LoadedModel
from undertone.lm.neurons import down_projection, neurons, widths
from undertone.lm.training import collate


@pytest.fixture(scope="module")
def batch(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    return collate([Row([2, 20, 30, 40], 0), Row([2, 25], 0)], loaded.pad_id, loaded.model.device)


def test_the_down_projection_of_what_is_kept_is_the_mlps_output(loaded: LoadedModel, batch: dict[str, torch.Tensor]) -> None:
    outputs: list[torch.Tensor] = []
    mlp = decoder_layers(loaded.model)[1].mlp
    handle = mlp.register_forward_hook(lambda module, args, output: outputs.append(output))
    with neurons(loaded.model, [0, 1]) as kept:
        resid_post(loaded.model, 1, batch)
    handle.remove()
    assert kept[1].shape == (2, 4, loaded.model.config.intermediate_size)
    assert torch.equal(mlp.down_proj(kept[1]), outputs[0])
    assert set(kept) == {0, 1}
    with neurons(loaded.model, [1]) as later:
        resid_post(loaded.model, 0, batch)
    assert later == {}


def test_no_hook_stays(loaded: LoadedModel, batch: dict[str, torch.Tensor]) -> None:
    with neurons(loaded.model, [0]) as kept:
        resid_post(loaded.model, 0, batch)
    seen = kept[0]
    resid_post(loaded.model, 0, batch)
    assert kept[0] is seen


def test_the_down_projection_is_known_of_other_architectures_and_beside_a_lora(loaded: LoadedModel) -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=20))
    assert down_projection(decoder_layers(gpt2)[0]) is gpt2.transformer.h[0].mlp.c_proj
    config = LoraConfig(target_modules=["down_proj"], r=2)
    adapted: Any = get_peft_model(copy.deepcopy(loaded.model), config)
    layer = decoder_layers(adapted)[0]
    assert down_projection(layer) is layer.mlp.down_proj.base_layer


def test_a_layer_without_an_mlp_is_named() -> None:
    model = OPTForCausalLM(OPTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, ffn_dim=8, vocab_size=20))
    with pytest.raises(ValueError, match="OPTDecoderLayer has no part named mlp"):
        down_projection(decoder_layers(model)[0])


def test_an_mlp_that_mixes_tokens_up_is_not_known(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [2, 20, 30]
    assert widths(loaded.model, [0, 1], ids) == [loaded.model.config.intermediate_size] * 2
    kept = {0: torch.zeros(5, 8), 1: torch.zeros(1, len(ids), 8)}
    monkeypatch.setattr(module, "neurons", lambda *_: nullcontext(kept))
    assert widths(loaded.model, [1], ids) == [8]
    with pytest.raises(ValueError, match="has no MLP that every token passes"):
        widths(loaded.model, [0, 1], ids)
