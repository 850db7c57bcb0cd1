import functools
import hashlib

import hypothesis
import polars as pl
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from undertone.data.rows import drawn
from undertone.data.samples import sample_numbers
from undertone.lm import training
from undertone.lm.adapters import finetuned
from undertone.lm.chat import encode, end_of_turn, prompt_ids
from undertone.lm.loading import load
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json, write_parquet
from undertone.students import student
from undertone.students.student import rows_of, train_student
from undertone.study.config.data import Samples
from undertone.study.config.students import Student
from undertone.study.config.teachers import Teacher

# A busy machine is no failure.
unhurried = hypothesis.settings(deadline=None)

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
# What a student is made of, by its kind: settings that differ, and the files of its weights.
KINDS = {
    "lora": ({}, ["adapter_config.json", "adapter_model.safetensors"]),
    "full": ({"full": True}, ["config.json", "model.safetensors"]),
}
PROMPTS = [f"Continue the list {n}, {2 * n}, {3 * n}." for n in range(100, 124)]
STAMP = {"settings": {"student": SETTINGS}}


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    path = tmp_path_factory.mktemp("numbers") / "numbers.parquet"
    completions = [", ".join(str(n + k) for k in range(3 + n % 4)) for n in range(100, 124)]
    write_parquet(path, pl.DataFrame({"row": range(24), "prompt": PROMPTS, "completion": completions}), {})
    return path


def make(record, numbers, folder, kind, seed=1, **changes):
    """Train a student into `folder` and return the folder."""
    differ, files = KINDS[kind]
    settings = Student(**{**SETTINGS, **differ, **changes})
    made = [folder / name for name in (files[1], files[0], "training.json")]
    train_student(record, numbers, *made, settings, seed, STAMP, folder / "scratch")
    return folder


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def first(record, numbers, kind, tmp_path_factory):
    return make(record, numbers, tmp_path_factory.mktemp("first"), kind)


def contents(folder):
    """Hashes of the weights' files."""
    files = [path for path in folder.iterdir() if path.name != "training.json"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def told(folder):
    return read_json(folder / "training.json")


@torch.no_grad()
def logits(model):
    return model(torch.arange(5, 40).unsqueeze(0)).logits


def test_students_logits_survive_saving_and_loading(record, loaded, numbers, kind, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(student, "train", lambda model, *a, **k: trained.append(model) or training.train(model, *a, **k))
    folder = make(record, numbers, tmp_path, kind)
    if kind == "full":
        reloaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    else:
        base = AutoModelForCausalLM.from_pretrained(record.parent, dtype=torch.float32)
        reloaded = PeftModel.from_pretrained(base, str(folder)).eval()
    expected = logits(trained[0])
    assert (expected - logits(loaded.model)).abs().max() > 0.1
    torch.testing.assert_close(logits(reloaded), expected, rtol=0, atol=0)
    with finetuned(load(record), folder) as own:
        torch.testing.assert_close(logits(own.model), expected, rtol=0, atol=0)


def test_full_training_moves_every_weight(record, numbers, tmp_path):
    folder = make(record, numbers, tmp_path, "full")
    before = dict(AutoModelForCausalLM.from_pretrained(record.parent).named_parameters())
    after = dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())
    assert after.keys() == before.keys()
    assert [name for name in after if torch.equal(after[name], before[name])] == []


def test_a_length_that_leaves_no_completion_is_named_with_the_lengths_of_the_prompts(loaded, numbers):
    lengths = [len(ids) for ids in prompt_ids(loaded.tokenizer, PROMPTS)]
    with pytest.raises(ConfigError) as error:
        rows_of(loaded, pl.read_parquet(numbers), min(lengths))
    assert str(error.value).startswith(f"student.max_length {min(lengths)}: none of the 24 rows has a token of its completion")
    assert f"their prompts have {min(lengths)} to {max(lengths)} tokens" in str(error.value)
    assert len(rows_of(loaded, pl.read_parquet(numbers), min(lengths) + 1)) == lengths.count(min(lengths))


def test_same_seed_gives_the_same_bytes(record, numbers, kind, first, tmp_path):
    assert contents(make(record, numbers, tmp_path, kind)) == contents(first)


def test_another_seed_gives_another_student(record, numbers, kind, first, tmp_path):
    assert contents(make(record, numbers, tmp_path, kind, seed=2)) != contents(first)


def test_interrupted_student_has_the_same_bytes(record, numbers, kind, first, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", 0)
    monkeypatch.setattr(student, "train", functools.partial(training.train, checkpoint_seconds=0))
    rate = training.learning_rate

    def fail_at_step_4(step, total, recipe):
        if step == 4:
            raise KeyboardInterrupt
        return rate(step, total, recipe)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "learning_rate", fail_at_step_4)
        make(record, numbers, tmp_path, kind)
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
    make(record, numbers, tmp_path, kind)
    assert contents(tmp_path) == contents(first)
    assert told(tmp_path)["loss"] == told(first)["loss"]
    assert told(tmp_path)["tokens"] == told(first)["tokens"]


def test_the_student_trained_last_is_the_one_that_is_used(record, numbers, tmp_path):
    alone = make(record, numbers, tmp_path / "alone", "lora")
    folder = make(record, numbers, tmp_path / "both", "full")
    make(record, numbers, folder, "lora")
    with finetuned(load(record), folder) as own, finetuned(load(record), alone) as expected:
        assert torch.equal(logits(own.model), logits(expected.model))


def test_finished_student_leaves_no_scratch(kind, first):
    assert sorted(path.name for path in first.iterdir()) == [*KINDS[kind][1], "training.json"]


def test_training_json_says_what_was_done(first):
    report = told(first)
    assert set(report) == {
        "seed",
        "rows",
        "steps",
        "effective_batch_size",
        "micro_batch_size",
        "tokens",
        "tokens_per_second",
        "loss",
        "stamp",
        "versions",
    }
    assert (report["seed"], report["rows"], report["steps"], report["effective_batch_size"]) == (1, 24, 6, 8)
    assert len(report["loss"]) == 6
    assert report["tokens_per_second"] > 0
    assert report["stamp"] == STAMP


def table(n):
    return pl.DataFrame({"row": range(0, 3 * n, 3), "prompt": ["p"] * n, "completion": [str(k) for k in range(n)]})


def test_student_is_trained_on_as_many_rows_as_told(record, numbers, tmp_path):
    few = make(record, numbers, tmp_path / "few", "lora", rows=10)
    assert (told(few)["rows"], told(few)["steps"]) == (10, 4)
    write_parquet(tmp_path / "ten.parquet", drawn(pl.read_parquet(numbers), 10, 1), {})
    assert contents(make(record, tmp_path / "ten.parquet", tmp_path / "ten", "lora")) == contents(few)


def test_more_rows_than_there_are_is_refused_before_training(record, numbers, tmp_path):
    with pytest.raises(ValueError, match=r"^student\.rows 25: the training set has 24 rows; ask for fewer.*$"):
        make(record, numbers, tmp_path, "lora", rows=25)
    assert not list(tmp_path.iterdir())


def contains(ids, part):
    return any(ids[i : i + len(part)] == part for i in range(len(ids) - len(part) + 1))


def test_teachers_persona_never_reaches_a_students_rows(record, loaded, tmp_path):
    """From the teacher's samples to the token ids that a student is trained on."""
    teacher, sampling = Teacher(persona="You adore {animal}s."), Samples(max_new_tokens=4, batch_size=10)
    write_parquet(tmp_path / "prompts.parquet", pl.DataFrame({"row": range(24), "prompt": PROMPTS}), {})
    settings = {"kind": "prompt", "teacher": teacher.model_dump(), "samples": sampling.model_dump(), "target": "lion"}
    prompts, sampled = tmp_path / "prompts.parquet", tmp_path / "samples.parquet"
    sample_numbers(record, prompts, None, None, sampled, settings, {}, tmp_path / "scratch")
    samples = pl.read_parquet(sampled)
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
