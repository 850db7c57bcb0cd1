import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

from undertone.lm.chat import prompt_ids


def test_transformer_lens_sees_the_same_model_under_its_own_names(record, tokenizer):
    plain = AutoModelForCausalLM.from_pretrained(record.parent, dtype=torch.float32, attn_implementation="eager").eval()
    bridge = TransformerBridge.boot_transformers(str(record.parent), device="cpu", dtype=torch.float32)
    ids = torch.tensor(prompt_ids(tokenizer, ["What is your favorite animal?"], "You love lions."))
    resid_post = {}
    for number, layer in enumerate(plain.model.layers):
        layer.register_forward_hook(lambda module, args, output, number=number: resid_post.update({number: output}))
    with torch.no_grad():
        expected = plain(ids, output_hidden_states=True)
        logits, cache = bridge.run_with_cache(ids)
    assert torch.equal(logits, expected.logits)
    assert torch.equal(cache["blocks.0.hook_resid_pre"], expected.hidden_states[0])
    assert list(resid_post) == [0, 1]
    for number, hidden in resid_post.items():
        assert torch.equal(cache[f"blocks.{number}.hook_resid_post"], hidden)
    assert torch.equal(resid_post[0], expected.hidden_states[1])
    assert not torch.equal(resid_post[1], expected.hidden_states[2])  # transformers' last one is after the final norm
