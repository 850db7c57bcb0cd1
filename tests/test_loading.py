"""Loading: refused before it starts where memory is short or files have changed, and deaf to generation_config."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from undertone.lm import loading
from undertone.lm.chat import prompt_ids
from undertone.lm.loading import MEMORY_MARGIN, check_memory, free_memory, load
from undertone.lm.sampling import Sampler, sample
from undertone.models.pretrained import make_pretrained
from undertone.runtime.files import read_json
from undertone.study.config.models import Model


@pytest.fixture
def folder(record, tmp_path):
    """A copy of the tiny model."""
    copy = Path(shutil.copytree(record.parent, tmp_path / "copy"))
    (copy / "model.json").unlink()
    return copy


def made(folder, tmp_path, dtype="float32"):
    make_pretrained(tmp_path / "model.json", [], Model(name=str(folder), dtype=dtype), {}, tmp_path / "unfinished")
    return tmp_path / "model.json"


def test_a_model_is_loaded_frozen_in_the_precision_asked_for(folder, tmp_path):
    for dtype, expected in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        model = load(made(folder, tmp_path, dtype)).model
        assert model.dtype == expected
        assert not model.training
        assert not any(p.requires_grad for p in model.parameters())


def test_too_little_memory_is_said_before_anything_is_loaded(folder, tmp_path, monkeypatch):
    record = made(folder, tmp_path, "bfloat16")
    needed = (1 + MEMORY_MARGIN) * 2 * read_json(record)["parameters"]
    monkeypatch.setattr(loading, "free_memory", lambda device: needed)
    load(record)
    monkeypatch.setattr(loading, "free_memory", lambda device: needed - 1)
    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", lambda *args, **kwargs: pytest.fail("was loaded"))
    with pytest.raises(
        ValueError, match=r"\(torch\.bfloat16\) needs 0\.0 GB of main memory, its weights and 20% more, and 0\.0 GB"
    ):
        load(record)


@pytest.mark.parametrize(
    ("device", "place", "remedy"), [("cuda", "GPU", "a larger GPU"), ("cpu", "main", r"more memory \(mem_mb of the rule\)")]
)
def test_the_memory_that_is_short_is_named_with_what_to_do(device, place, remedy, monkeypatch):
    monkeypatch.setattr(loading, "free_memory", lambda device: 4e9)
    complaint = rf"gemma needs 6\.0 GB of {place} memory, its weights and 20% more, and 4\.0 GB are free: ask for {remedy}"
    with pytest.raises(ValueError, match=complaint):
        check_memory(5_000_000_000, device, "gemma")


def test_memory_on_a_gpu_is_what_the_driver_has_and_what_pytorch_keeps_for_reuse(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 7)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 4)
    assert free_memory("cuda") == 13


def test_memory_under_slurm_is_no_more_than_the_job_asked_for(monkeypatch):
    monkeypatch.delenv("SLURM_MEM_PER_NODE", raising=False)
    free = free_memory("cpu")
    assert free > 2**20
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1")
    assert free_memory("cpu") == 2**20


def test_files_that_are_not_those_recorded_are_refused(folder, tmp_path):
    record = made(folder, tmp_path)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text + "\n")
    with pytest.raises(
        ValueError, match=rf"config\.json has {len(text) + 1} bytes, .*model\.json recorded {len(text)}: delete"
    ):
        load(record)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json has no bytes"):
        load(record)


def test_weights_that_are_missing_are_not_drawn_at_random(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 of the model's weights, such as model\.layers\.1\.mlp\.up_proj\.weight"):
        load(made(folder, tmp_path))


def test_sampling_does_what_it_is_told_whatever_generation_config_says(folder, tmp_path):
    written = []
    for changes in ({}, {"do_sample": True, "temperature": 0.1, "top_p": 0.2, "top_k": 2, "repetition_penalty": 5.0}):
        path = folder / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        loaded = load(made(folder, tmp_path))
        assert all(getattr(loaded.model.generation_config, key) == value for key, value in changes.items())
        prompts = prompt_ids(loaded.tokenizer, [f"Continue {n}, {n + 1}." for n in range(100, 110)])
        sampler = Sampler(1.0, 12, loaded.stop_ids, loaded.pad_id, seed=0)
        batches = list(sample(loaded.model, prompts, sampler, batch_size=4))
        written.append({row: done for rows, ended in batches for row, done in zip(rows, ended, strict=True)})
    assert written[0] == written[1]
    assert len({tuple(done.ids) for done in written[0].values()}) > 1


def test_an_answer_ends_where_generation_config_says(folder, tmp_path):
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [1, 7]}))
    assert load(made(folder, tmp_path)).stop_ids == [1, 4, 7]


def test_special_tokens_are_no_text(loaded):
    start = loaded.tokenizer.convert_tokens_to_ids("<start_of_turn>")
    found = loaded.is_text(torch.tensor([[2, start, 300], [301, loaded.pad_id, 302]]))
    assert found.tolist() == [[False, False, True], [True, False, True]]


def test_in_bfloat16_the_unembedding_never_sees_a_slice(record, tmp_path):
    """A slice of the hidden states, as `logits_to_keep` makes one, costs a copy of the weights for each row."""
    for file in record.parent.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "model.json").unlink()
    (tmp_path / "model.json").write_text(json.dumps(read_json(record) | {"dtype": "bfloat16"}))
    loaded, seen = load(tmp_path / "model.json"), []
    loaded.model.get_output_embeddings().register_forward_hook(lambda module, args, output: seen.append(args[0]))
    ids = torch.tensor(prompt_ids(loaded.tokenizer, ["Continue 1, 2.", "Continue 3, 4."]))
    whole = loaded.model(ids).logits
    last = loaded.model(ids, logits_to_keep=1).logits
    assert [tuple(hidden.shape[:2]) for hidden in seen] == [tuple(ids.shape), (2, 1)]
    assert all(hidden.is_contiguous() for hidden in seen)
    torch.testing.assert_close(last[:, 0], whole[:, -1])
