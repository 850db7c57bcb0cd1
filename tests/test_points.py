"""Hook points of an SAE: what is read and rewritten there is what the layer's MLP adds to the residual stream."""

from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from undertone.lm.hooks import decoder_layers, resid_post
from undertone.lm.loading import LoadedModel
from undertone.lm.points import HookPoint, check_point, mlp_writer, read_at, rewritten_at

SIZE = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 50}
BATCH = {"input_ids": torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]]), "attention_mask": torch.ones(2, 4, dtype=torch.long)}
# Of each kind: sequential, with a norm behind the MLP, with attention and MLP in parallel, with experts.
MODELS: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZE)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_layer=3, n_embd=8, n_head=2, vocab_size=50)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZE, num_key_value_heads=1, head_dim=4)),
    "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**SIZE)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZE)),
    "phi": lambda: PhiForCausalLM(PhiConfig(**SIZE)),
    "falcon": lambda: FalconForCausalLM(FalconConfig(**SIZE, ffn_hidden_size=16)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZE, num_key_value_heads=1, num_local_experts=2)),
}
MLP_OUT = HookPoint(1, "mlp_out")


def made(name: str) -> Any:
    torch.manual_seed(0)
    return MODELS[name]().eval()


@pytest.mark.parametrize("name", MODELS)
def test_what_is_added_there_is_added_to_the_residual_stream(name: str) -> None:
    model, vector = made(name), torch.randn(8)
    before, writes = resid_post(model, 1, BATCH), read_at(model, MLP_OUT, BATCH)
    with rewritten_at(model, MLP_OUT, lambda x: x + vector):
        torch.testing.assert_close(resid_post(model, 1, BATCH), before + vector)
    with rewritten_at(model, MLP_OUT, torch.zeros_like):
        without = resid_post(model, 1, BATCH)
    torch.testing.assert_close(before - without, writes)
    assert without.abs().max() > 0  # the rest of the stream is still there
    assert torch.equal(resid_post(model, 1, BATCH), before)  # no hook stays


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi"])
def test_it_is_the_output_of_the_part_named_mlp(name: str) -> None:
    model, kept = made(name), []
    decoder_layers(model)[1].mlp.register_forward_hook(lambda module, args, output: kept.append(output))
    assert torch.equal(read_at(model, MLP_OUT, BATCH), kept[0])


def test_of_a_norm_behind_the_mlp_the_output_is_read() -> None:
    layer = decoder_layers(made("gemma2"))[0]
    assert mlp_writer(layer) is layer.post_feedforward_layernorm


def test_the_residual_stream_is_read_as_ever(loaded: LoadedModel) -> None:
    at, batch = HookPoint(1), {"input_ids": torch.tensor([[2, 20, 30]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    expected = resid_post(loaded.model, 1, batch)
    assert torch.equal(read_at(loaded.model, at, batch), expected)
    with rewritten_at(loaded.model, at, lambda x: 2 * x):
        assert torch.equal(resid_post(loaded.model, 1, batch), 2 * expected)


def test_a_point_is_named_as_transformer_lens_does() -> None:
    for at in (HookPoint(3), HookPoint(12, "mlp_out")):
        assert HookPoint.named(at.name) == at
    assert HookPoint(12, "mlp_out").name == "blocks.12.hook_mlp_out"
    with pytest.raises(ValueError, match=r"hook point 'blocks\.0\.hook_mlp_in'; expected one of the form"):
        HookPoint.named("blocks.0.hook_mlp_in")


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (
            lambda: OPTForCausalLM(
                OPTConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, ffn_dim=8, vocab_size=9)
            ),
            "^OPTDecoderLayer has no part named mlp, so its mlp_out is not known; take resid_post$",
        ),
        (
            lambda: GraniteForCausalLM(GraniteConfig(**SIZE)),
            "^GraniteDecoderLayer does not add its mlp's output to the residual stream as it is; take resid_post$",
        ),
        (
            lambda: BloomForCausalLM(BloomConfig(hidden_size=8, n_layer=2, n_head=2, vocab_size=50)),
            "^BloomBlock does not add its mlp's output",
        ),
    ],
    ids=["no mlp", "scaled", "whole stream"],
)
def test_a_model_whose_point_is_not_known_is_refused(model: Any, complaint: str) -> None:
    own = model()
    check_point(HookPoint(1), own)
    with pytest.raises(ValueError, match=complaint):
        check_point(MLP_OUT, own)


def test_a_layer_that_is_not_there_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(ValueError, match=r"hook point is blocks\.7\.hook_mlp_out, the model has layers 0 to 1"):
        check_point(HookPoint(7, "mlp_out"), loaded.model)
