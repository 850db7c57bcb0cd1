"""The residual stream: read and rewritten where TransformerLens says it is."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from undertone.lm.chat import Row
from undertone.lm.hooks import decoder_layers, final_norm, hook_point, layer_of, resid_post, rewritten
from undertone.lm.training import collate

ROWS = [Row([2, 7, 9, 11, 30], 1), Row([2, 40, 41], 1)]


@pytest.fixture
def batch(loaded):
    return collate(ROWS, loaded.pad_id, "cpu")


def logits(model, batch):
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits


def test_hook_points_have_transformer_lens_names():
    assert [layer_of(hook_point(layer)) for layer in (0, 12)] == [0, 12]
    for name in ("blocks.12.hook_resid_pre", "model.layers.2", ""):
        with pytest.raises(ValueError, match="expected one of the form"):
            layer_of(name)


def test_the_residual_stream_is_transformer_lenss(loaded, batch):
    bridge = TransformerBridge.boot_transformers(
        "tiny", hf_model=copy.deepcopy(loaded.model), tokenizer=loaded.tokenizer, device="cpu"
    )
    mask = batch["attention_mask"].bool()
    for layer in range(len(decoder_layers(loaded.model))):
        _, cache = bridge.run_with_cache(
            batch["input_ids"], attention_mask=batch["attention_mask"], names_filter=hook_point(layer)
        )
        own = resid_post(loaded.model, layer, batch)
        assert torch.allclose(own[mask], cache[hook_point(layer)][mask], atol=1e-5)


def test_reading_stops_above_the_layer_and_leaves_no_hook(loaded, batch):
    last = decoder_layers(loaded.model)[-1]
    ran = []
    handle = last.register_forward_hook(lambda *_: ran.append(True))
    resid_post(loaded.model, 0, batch)
    handle.remove()
    assert not ran
    assert not decoder_layers(loaded.model)[0]._forward_hooks


def test_rewriting_adds_what_it_is_told_and_only_inside(loaded, batch):
    plain, vector = logits(loaded.model, batch), torch.linspace(-1, 1, loaded.model.config.hidden_size)
    with rewritten(loaded.model, 0, lambda x: x + vector):
        steered, read = logits(loaded.model, batch), resid_post(loaded.model, 0, batch)
    assert torch.equal(read, resid_post(loaded.model, 0, batch) + vector)
    assert not torch.allclose(steered, plain)
    assert torch.equal(logits(loaded.model, batch), plain)
    with rewritten(loaded.model, 0, lambda x: x):
        assert torch.equal(logits(loaded.model, batch), plain)


def test_an_error_inside_leaves_no_hook(loaded, batch):
    with pytest.raises(RuntimeError), rewritten(loaded.model, 0, lambda x: x):
        raise RuntimeError
    assert not decoder_layers(loaded.model)[0]._forward_hooks


def test_layers_are_found_through_a_lora_and_in_other_architectures(loaded):
    model = get_peft_model(copy.deepcopy(loaded.model), LoraConfig(target_modules=["q_proj"]))
    assert len(decoder_layers(model)) == loaded.model.config.num_hidden_layers
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=3, n_embd=8, n_head=2, vocab_size=50))
    assert len(decoder_layers(gpt2)) == 3


def tiny(name, loaded):
    """The tiny Gemma, bare or with a LoRA, or a tiny model of another architecture."""
    if name == "gemma":
        return loaded.model
    if name == "lora":
        return get_peft_model(copy.deepcopy(loaded.model), LoraConfig(target_modules=["q_proj"]))
    if name == "llama":
        size = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 50}
        return LlamaForCausalLM(LlamaConfig(**size)).eval()
    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=50)).eval()


@pytest.mark.parametrize("name", ["gemma", "lora", "llama", "gpt2"])
def test_the_final_norm_leads_from_the_last_residual_stream_to_the_unembedding(loaded, batch, name):
    model, unembedded = tiny(name, loaded), []
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda module, args: unembedded.append(args[0]))
    logits(model, batch)
    handle.remove()
    with torch.no_grad():
        assert torch.equal(final_norm(model)(resid_post(model, 1, batch)), unembedded[0])


def test_a_model_whose_final_norm_is_unknown_is_refused_by_name():
    size = {"hidden_size": 8, "word_embed_proj_dim": 8, "ffn_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    with pytest.raises(ValueError, match="OPTDecoder has no final norm that undertone knows"):
        final_norm(OPTForCausalLM(OPTConfig(**size, vocab_size=20)))
