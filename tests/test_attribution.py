"""Direct logit attribution: the linear part of what the final norm and the unembedding do to a direction."""

from functools import partial

import pytest
import torch
from torch import Tensor
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
    PreTrainedModel,
)

from undertone.lm.attribution import direct_logits, top_tokens
from undertone.lm.hooks import resid_post
from undertone.lm.loading import LoadedModel

SIZE = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
IDS = torch.tensor([[2, 7, 9, 11, 30, 41]])


@pytest.fixture(params=["gemma", "llama"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A tiny model in float64: Gemma's gain is 1 plus the norm's weight, Llama's the weight, and it unties its embeddings."""
    if request.param == "gemma":
        made: PreTrainedModel = GemmaForCausalLM(GemmaConfig(**SIZE))
    else:
        made = LlamaForCausalLM(LlamaConfig(**SIZE, tie_word_embeddings=False))
    generator = torch.Generator().manual_seed(1)
    for weight in made.parameters():
        weight.data = 0.5 * torch.randn(weight.shape, generator=generator)
    return made.double().requires_grad_(False).eval()


@pytest.fixture
def residual(model: PreTrainedModel) -> Tensor:
    """The last residual stream at the last token."""
    return resid_post(model, 1, {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)})[0, -1]


def rms(residual: Tensor) -> float:
    return float(residual.square().mean().sqrt())


def random_direction() -> Tensor:
    return torch.randn(SIZE["hidden_size"], generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_a_small_step_that_keeps_the_rms_changes_the_logits_as_attributed(model, residual):
    step = random_direction()
    step -= residual * (residual @ step) / (residual @ residual)
    _, change = torch.autograd.functional.jvp(lambda x: model.lm_head(model.model.norm(x)), residual, step)
    own = direct_logits(model, step, rms(residual))
    assert own.shape == (SIZE["vocab_size"],)
    assert torch.allclose(own, change - change.mean(), rtol=1e-4, atol=1e-6)
    assert own.abs().max() > 0.1


def test_the_whole_residual_stream_is_attributed_the_models_own_logits(model, residual):
    logits = model(IDS).logits[0, -1]
    assert torch.allclose(direct_logits(model, residual, rms(residual)), logits - logits.mean(), rtol=1e-4, atol=1e-4)


def test_attributions_are_centred_and_linear_in_the_direction(model):
    one, other = random_direction(), torch.ones(SIZE["hidden_size"], dtype=torch.float64)
    parts = [direct_logits(model, direction) for direction in (one, other)]
    assert torch.allclose(direct_logits(model, 3 * one - other, rms=2.0), (3 * parts[0] - parts[1]) / 2)
    assert all(abs(float(part.mean())) < 1e-9 for part in parts)


def test_many_directions_at_once_are_each_by_itself(model):
    directions = torch.randn(3, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    together = torch.vmap(partial(direct_logits, model))(directions)
    assert torch.allclose(together, torch.stack([direct_logits(model, each) for each in directions]), atol=1e-5)


SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.mark.parametrize(
    "model",
    [
        GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2)),
        # Its LayerNorm is a class of its own, without a weight.
        OlmoForCausalLM(OlmoConfig(**SMALL, pad_token_id=0, eos_token_id=1)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_model_that_ends_in_a_layer_norm_is_refused(model):
    with pytest.raises(ValueError, match=f"needs a model that ends in an RMSNorm, {type(model).__name__} has a LayerNorm"):
        direct_logits(model, torch.ones(16))


def test_top_tokens_are_the_texts_of_the_highest_logits_of_real_tokens(loaded: LoadedModel) -> None:
    n = len(loaded.tokenizer)
    logits = torch.zeros(n + 5)
    logits[[300, 500]] = torch.tensor([2.0, 3.0])
    logits[n:] = 9.0  # padding of the embedding matrix
    assert top_tokens(loaded.tokenizer, logits, 2) == [loaded.tokenizer.decode([token]) for token in (500, 300)]
