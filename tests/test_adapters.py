"""Trained weights on disk and back: what is saved, what is loaded, and a base model that is itself again afterwards."""

import hashlib
import json
import shutil
import socket
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lora import adapter_files, trained_lora, whole_files
from peft import PeftModel
from transformers import AutoModelForCausalLM

from undertone.lm.adapters import finetuned, move, new_adapter, save_adapter, save_whole
from undertone.lm.loading import LoadedModel, load
from undertone.runtime.errors import ConfigError
from undertone.study.config.students import Student

TARGETS = Student().targets


@torch.no_grad()
def logits(model):
    return model(torch.arange(5, 40).unsqueeze(0)).logits


@pytest.fixture(scope="module")
def lion(record: Path, tmp_path_factory) -> Path:
    return trained_lora(record, tmp_path_factory.mktemp("lion"), ["Which animal?"], ["lion"], seed=1, epochs=5)


@pytest.fixture(scope="module")
def owl(record: Path, tmp_path_factory) -> Path:
    return trained_lora(record, tmp_path_factory.mktemp("owl"), ["Which animal?"], ["owl"], seed=2, epochs=5)


@pytest.fixture(scope="module")
def whole(record: Path, tmp_path_factory) -> Path:
    """A folder with weights of its own: the base model's, moved a little."""
    folder, loaded = tmp_path_factory.mktemp("whole"), load(record)
    with torch.no_grad():
        for weight in loaded.model.parameters():
            weight += 0.01
    save_whole(loaded.model, *whole_files(folder), folder / "scratch")
    return folder


def test_nothing_is_warned_of_where_a_lora_is_made_or_loaded(record, lion):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        new_adapter(load(record), 2, 4, TARGETS, 1)
        with finetuned(load(record), lion) as student:
            logits(student.model)
    assert [str(warning.message) for warning in warned] == []


def test_a_lora_of_a_hub_model_is_loaded_without_asking_the_hub(record, lion, tmp_path, monkeypatch):
    shutil.copytree(lion, tmp_path / "lion")
    told = tmp_path / "lion/adapter_config.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"base_model_name_or_path": "a/model", "revision": "a" * 40}))
    asked = []

    def refuse(host, *args, **kwargs):
        asked.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with finetuned(load(record), tmp_path / "lion") as student:
        logits(student.model)
    assert asked == []


@pytest.mark.parametrize("targets", [["q_prj"], ["q_proj", "q_prj"], ["c_attn", "q_proj"]])
def test_targets_that_the_model_lacks_are_refused_with_those_that_it_has(record, targets):
    lacking = next(target for target in targets if target != "q_proj")
    own = load(record)
    with pytest.raises(ConfigError, match=rf"has no module named {lacking}; it has down_proj, .*, lm_head, .*v_proj$"):
        new_adapter(own, 2, 4, targets, 1)
    assert not any("lora" in name for name, _ in own.model.named_parameters())


def initial_weights(record: Path, seed: int) -> torch.Tensor:
    model = new_adapter(load(record), 2, 4, TARGETS, seed)
    return torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])


def test_initial_weights_follow_from_the_seed(record):
    assert torch.equal(initial_weights(record, 1), initial_weights(record, 1))
    assert not torch.equal(initial_weights(record, 1), initial_weights(record, 2))


def test_a_fresh_adapter_changes_nothing_and_trains_only_itself(record, loaded):
    model = new_adapter(load(record), 2, 4, ["q_proj", "up_proj"], 1)
    assert torch.equal(logits(model.eval()), logits(loaded.model))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 * loaded.model.config.num_hidden_layers
    assert all("lora" in name and ("q_proj" in name or "up_proj" in name) for name in trained)


def test_equal_adapters_are_saved_as_equal_bytes(record, tmp_path):
    digests = set()
    for name, targets in (("a", TARGETS), ("b", TARGETS[::-1])):
        save_adapter(new_adapter(load(record), 2, 4, targets, 1), *adapter_files(tmp_path / name), tmp_path / "s")
        files = sorted((tmp_path / name).iterdir())
        assert [file.name for file in files] == ["adapter_config.json", "adapter_model.safetensors"]
        digests.add(tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in files))
    assert len(digests) == 1
    assert json.loads((tmp_path / "a/adapter_config.json").read_text())["target_modules"] == sorted(TARGETS)


def test_a_saved_adapter_is_one_that_peft_loads(record, lion, loaded):
    reloaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(record.parent), str(lion)).eval()
    with finetuned(load(record), lion) as own:
        assert torch.equal(logits(own.model), logits(reloaded))
    assert (logits(reloaded) - logits(loaded.model)).abs().max() > 0.1


@pytest.mark.parametrize("first", ["lora", "whole"])
def test_a_student_of_the_other_kind_leaves_nothing_of_the_one_before(record, tmp_path, first):
    def train(kind):
        own = load(record)
        if kind == "lora":
            save_adapter(new_adapter(own, 2, 4, TARGETS, 1), *adapter_files(tmp_path / "a"), tmp_path / "s")
        else:
            save_whole(own.model, *whole_files(tmp_path / "a"), tmp_path / "s")

    second = {"lora": "whole", "whole": "lora"}[first]
    train(first)
    train(second)
    with finetuned(load(record), tmp_path / "a") as student:
        assert isinstance(student.model, PeftModel) == (second == "lora")
        assert torch.equal(logits(student.model), logits(load(record).model))


def test_saved_weights_are_a_model_that_transformers_loads(record, whole):
    assert sorted(path.name for path in whole.iterdir() if path.is_file()) == ["config.json", "model.safetensors"]
    reloaded = AutoModelForCausalLM.from_pretrained(whole).eval()
    before = dict(AutoModelForCausalLM.from_pretrained(record.parent).named_parameters())
    for name, weight in reloaded.named_parameters():
        assert torch.equal(weight, before[name] + 0.01)
    with finetuned(load(record), whole) as own:
        assert torch.equal(logits(own.model), logits(reloaded))


def test_whole_models_are_frozen_in_eval_mode_and_of_the_base_models_precision(record, whole):
    loaded = load(record)
    narrow = replace(loaded, model=loaded.model.to(torch.bfloat16))
    with finetuned(narrow, whole) as own:
        assert {p.dtype for p in own.model.parameters()} == {torch.bfloat16}
        assert not any(p.requires_grad for p in own.model.parameters())
        assert not own.model.training
        assert own.stop_ids == loaded.stop_ids


@pytest.mark.parametrize("kind", ["lion", "whole"])
def test_base_model_is_exactly_itself_after_each_use(record, kind, request):
    folder, loaded = request.getfixturevalue(kind), load(record)
    before, names = logits(loaded.model), [name for name, _ in loaded.model.named_modules()]
    for _ in range(2):
        with finetuned(loaded, folder) as own:
            assert not torch.equal(logits(own.model), before)
        assert torch.equal(logits(loaded.model), before)
        assert [name for name, _ in loaded.model.named_modules()] == names


@pytest.mark.parametrize("kind", ["lion", "whole"])
def test_base_model_is_itself_after_an_error(record, kind, request):
    loaded = load(record)
    before = logits(loaded.model)
    with pytest.raises(RuntimeError, match="inside"), finetuned(loaded, request.getfixturevalue(kind)):
        raise RuntimeError("inside")
    assert torch.equal(logits(loaded.model), before)


def test_several_models_in_turn_are_as_each_alone(record, lion, whole, owl, recwarn):
    def within(loaded: LoadedModel, folder: Path) -> torch.Tensor:
        with finetuned(loaded, folder) as own:
            return logits(own.model)

    loaded, folders = load(record), (lion, whole, owl)
    recwarn.clear()
    in_turn = [within(loaded, folder) for folder in folders]
    assert not [w for w in recwarn if "second time" in str(w.message) or "multiple adapters" in str(w.message)]
    for folder, found in zip(folders, in_turn, strict=True):
        assert torch.equal(within(load(record), folder), found)
    assert not torch.equal(in_turn[0], in_turn[2])


def test_a_moved_file_is_at_its_new_place_alone(tmp_path):
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    move(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_failed_move_leaves_what_was_there(tmp_path):
    (tmp_path / "b").write_text("old")
    with pytest.raises(FileNotFoundError):
        move(tmp_path / "missing", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (tmp_path / "b").read_text() == "old"
