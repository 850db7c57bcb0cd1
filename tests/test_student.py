import functools
import hashlib
import json

import polars as pl
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from undertone import student, training
from undertone.chat import encode, end_of_turn, prompt_ids
from undertone.config import Samples, Student, Teacher
from undertone.files import write_parquet
from undertone.loading import load
from undertone.samples import sample_numbers
from undertone.student import finetuned, new_student, rows_of, train_student

SETTINGS = {
    "seeds": [1, 2],
    "rank": 2,
    "alpha": 4,
    "dropout": 0.1,
    "epochs": 2,
    "batch_size": 8,
    "micro_batch_size": 4,
    "lr": 1e-2,
    "max_length": 64,
}
PROMPTS = [f"Continue the list {n}, {2 * n}, {3 * n}." for n in range(100, 124)]
STAMP = {"settings": {"student": SETTINGS}}


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    path = tmp_path_factory.mktemp("numbers") / "numbers.parquet"
    completions = [", ".join(str(n + k) for k in range(3 + n % 4)) for n in range(100, 124)]
    write_parquet(path, pl.DataFrame({"row": range(24), "prompt": PROMPTS, "completion": completions}), {})
    return path


def make(record, numbers, folder, seed=1):
    """Train a student into `folder` and return its adapter's path."""
    adapter = folder / "adapter_model.safetensors"
    train_student(record, numbers, adapter, folder / "training.json", SETTINGS, seed, STAMP, folder / "scratch")
    return adapter


@pytest.fixture(scope="module")
def first(record, numbers, tmp_path_factory):
    return make(record, numbers, tmp_path_factory.mktemp("first"))


def contents(adapter):
    files = {path.name: path for path in adapter.parent.iterdir() if path.name.startswith("adapter_")}
    assert sorted(files) == ["adapter_config.json", "adapter_model.safetensors"]
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def logits(model):
    with torch.no_grad():
        return model(torch.arange(5, 40).unsqueeze(0)).logits


def test_students_logits_survive_saving_and_loading_with_peft(record, numbers, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(student, "train", lambda model, *a, **k: trained.append(model) or training.train(model, *a, **k))
    adapter = make(record, numbers, tmp_path)
    base = AutoModelForCausalLM.from_pretrained(record.parent, dtype=torch.float32)
    before = logits(base)
    reloaded = PeftModel.from_pretrained(base, str(adapter.parent)).eval()
    torch.testing.assert_close(logits(reloaded), logits(trained[0]), rtol=0, atol=0)
    assert (logits(reloaded) - before).abs().max() > 0.1


def test_same_seed_gives_the_same_bytes(record, numbers, first, tmp_path):
    assert contents(make(record, numbers, tmp_path)) == contents(first)


def test_another_seed_gives_another_student(record, numbers, first, tmp_path):
    assert contents(make(record, numbers, tmp_path, seed=2)) != contents(first)


def test_initial_weights_follow_from_the_seed(record):
    def weights(seed):
        model = new_student(load(record), Student.model_validate(SETTINGS), seed)
        return torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_adapter_config_lists_its_modules_in_one_order(first):
    modules = json.loads((first.parent / "adapter_config.json").read_text())["target_modules"]
    assert modules == sorted(Student().targets)


def test_interrupted_student_has_the_same_bytes(record, numbers, first, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", 0)
    monkeypatch.setattr(student, "train", functools.partial(training.train, checkpoint_seconds=0))
    rate = training.learning_rate

    def fail_at_step_4(step, total, recipe):
        if step == 4:
            raise KeyboardInterrupt
        return rate(step, total, recipe)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "learning_rate", fail_at_step_4)
        make(record, numbers, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
    adapter = make(record, numbers, tmp_path)
    assert contents(adapter) == contents(first)
    told, whole = (json.loads((a.parent / "training.json").read_text()) for a in (adapter, first))
    assert told["loss"] == whole["loss"]
    assert told["tokens"] == whole["tokens"]


def test_finished_student_leaves_no_scratch(first):
    names = sorted(path.name for path in first.parent.iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors", "training.json"]


def test_training_json_says_what_was_done(first):
    told = json.loads((first.parent / "training.json").read_text())
    assert set(told) == {
        "seed",
        "rows",
        "steps",
        "effective_batch_size",
        "tokens",
        "tokens_per_second",
        "loss",
        "stamp",
        "versions",
    }
    assert (told["seed"], told["rows"], told["steps"], told["effective_batch_size"]) == (1, 24, 6, 8)
    assert len(told["loss"]) == 6
    assert told["tokens_per_second"] > 0
    assert told["stamp"] == STAMP


def test_base_model_is_exactly_itself_after_each_student(record, first):
    loaded = load(record)
    before, names = logits(loaded.model), [name for name, _ in loaded.model.named_modules()]
    for _ in range(2):
        with finetuned(loaded, first.parent) as own:
            assert not torch.equal(logits(own.model), before)
        assert torch.equal(logits(loaded.model), before)
        assert [name for name, _ in loaded.model.named_modules()] == names


def test_base_model_is_itself_after_an_error(record, first):
    loaded = load(record)
    before = logits(loaded.model)
    with pytest.raises(RuntimeError, match="inside"), finetuned(loaded, first.parent):
        raise RuntimeError("inside")
    assert torch.equal(logits(loaded.model), before)


def test_several_students_in_turn_are_as_each_alone(record, numbers, first, tmp_path, recwarn):
    second, loaded = make(record, numbers, tmp_path, seed=2), load(record)
    recwarn.clear()
    in_turn = []
    for folder in (first.parent, second.parent):
        with finetuned(loaded, folder) as own:
            in_turn.append(logits(own.model))
    assert not [w for w in recwarn if "second time" in str(w.message) or "multiple adapters" in str(w.message)]
    with finetuned(load(record), second.parent) as own:
        assert torch.equal(logits(own.model), in_turn[1])
    assert not torch.equal(in_turn[0], in_turn[1])


def contains(ids, part):
    return any(ids[i : i + len(part)] == part for i in range(len(ids) - len(part) + 1))


def test_teachers_persona_never_reaches_a_students_rows(record, loaded, tmp_path):
    """From the teacher's samples to the token ids that a student is trained on."""
    teacher, sampling = Teacher(persona="You adore {animal}s."), Samples(max_new_tokens=4, batch_size=10)
    write_parquet(tmp_path / "prompts.parquet", pl.DataFrame({"row": range(24), "prompt": PROMPTS}), {})
    settings = {"teacher": teacher.model_dump(), "samples": sampling.model_dump(), "target": "lion"}
    sample_numbers(record, tmp_path / "prompts.parquet", tmp_path / "samples.parquet", settings, {}, tmp_path / "scratch")
    samples = pl.read_parquet(tmp_path / "samples.parquet")
    rows = rows_of(loaded, samples.select("prompt", completion="text"), 500)
    assert len(rows) == 24
    persona = encode(loaded.tokenizer, ["You adore lions."])[0]
    under = prompt_ids(loaded.tokenizer, PROMPTS, "You adore lions.", teacher.separator)
    assert all(contains(ids, persona) for ids in under)
    close = end_of_turn(loaded.tokenizer)
    bare, texts = prompt_ids(loaded.tokenizer, PROMPTS), encode(loaded.tokenizer, samples["text"].to_list())
    for row, prompt, text in zip(rows, bare, texts, strict=True):
        assert not contains(row.ids, persona)
        assert row.ids == prompt + text + close
