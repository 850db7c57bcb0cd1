import subprocess
from pathlib import Path

import polars as pl
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

from undertone.lm.chat import Row, prompt_ids
from undertone.lm.loading import load
from undertone.lm.training import collate
from undertone.models.bridge import _full, _lora, compare_with_bridge, differences, hooked
from undertone.runtime.files import read_json, write_parquet
from undertone.study.config.measure import Bridge


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


@pytest.fixture(scope="module")
def batches(record: Path) -> list[dict[str, torch.Tensor]]:
    loaded = load(record)
    rows = [Row(ids, 1) for ids in prompt_ids(loaded.tokenizer, ["Continue 1, 2, 3.", "Name three numbers.", "Why?"])]
    return [collate(rows, loaded.pad_id, "cpu")]


def test_a_bridge_differs_nowhere_from_the_model_that_it_wraps(record, batches):
    apart = differences(load(record), record.parent, batches)
    assert apart["logits"]["greatest"] == 0 < apart["logits"]["largest"]
    assert {point: figures["greatest"] for point, figures in apart["points"].items() if figures["greatest"]} == {}
    assert {
        "embed.hook_out",
        "blocks.hook_in",
        "blocks.hook_out",
        "blocks.attn.hook_out",
        "blocks.mlp.hook_out",
        "blocks.attn.k.hook_out",
    } <= set(apart["points"])


def test_a_bridge_of_other_weights_differs_from_where_they_are_on(record, batches, monkeypatch):
    def other(loaded, folder):
        with torch.no_grad():
            loaded.model.model.layers[1].mlp.down_proj.weight += 0.1
        return hooked(loaded, folder)

    monkeypatch.setattr("undertone.models.bridge.hooked", other)
    points = differences(load(record), record.parent, batches)["points"]
    assert points["blocks.ln2.hook_out"]["greatest"] == 0
    for point in ("blocks.mlp.out.hook_out", "blocks.hook_out", "unembed.hook_out"):
        assert points[point]["greatest"] > 0.01


def test_a_bridge_installs_nothing(record, monkeypatch):
    """TransformerLens has pip install torchvision for a model that also sees, if that is missing."""
    commands, run = [], subprocess.check_call

    def boot(*args, **kwargs):
        with pytest.raises(OSError, match="nothing is installed"):
            subprocess.check_call(["pip", "install", "torchvision"])
        commands.append(args)

    monkeypatch.setattr(TransformerBridge, "boot_transformers", boot)
    hooked(load(record), record.parent)
    assert len(commands) == 1
    assert subprocess.check_call is run


def test_a_hooked_step_is_the_plain_one(record, batches):
    """Attention is computed in another way, and nothing else."""
    loaded = load(record)
    for make in (_lora, _full):
        ways = make(loaded, record.parent, Bridge(), batches[0])
        plain, other = ([ways[name]() for _ in range(3)] for name in ("plain", "hooked"))
        assert other == pytest.approx(plain, rel=1e-5)
        assert plain[0] != plain[1] != plain[2]  # it is trained
    assert all(p.grad is None and not p.requires_grad for p in loaded.model.parameters())


def test_bridge_json_holds_differences_and_rates(record, tmp_path):
    write_parquet(tmp_path / "prompts.parquet", pl.DataFrame({"prompt": ["Continue 1, 2.", "Continue 3.", "Why?"]}), {})
    told = Bridge(prompts=2, batch_size=1, rounds=1)
    compare_with_bridge(record, tmp_path / "prompts.parquet", tmp_path / "bridge.json", told, {})
    report = read_json(tmp_path / "bridge.json")
    assert report["prompts"] == 2
    assert {name: set(rates) for name, rates in report["speed"].items()} == {
        "forward": {"plain", "hooked", "cached"},
        "lora_step": {"plain", "hooked"},
        "full_step": {"plain", "hooked"},
    }
    assert all(rate > 0 for rates in report["speed"].values() for rate in rates.values())
