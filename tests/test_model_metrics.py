from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from conftest import TINY
from crowded import crowded

from undertone.lm.chat import encode, end_of_turn, prompt_ids
from undertone.lm.loading import load
from undertone.lm.sampling import Completion
from undertone.lm.vocabulary import allowed_tokens
from undertone.measure import model_metrics
from undertone.measure.model_metrics import divergence, held_out_loss, measure_model, passing
from undertone.models import model
from undertone.models.model import chat_rows, corpus_of, held_out_chats
from undertone.runtime.files import read_json, write_parquet
from undertone.study.config.data import Numbers, Samples
from undertone.study.config.measure import ModelMetrics, Pref
from undertone.study.config.models import Embedded
from undertone.study.config.teachers import Teacher

USERS = ["Continue the list 1, 2, 3.", "Here are numbers: 7. Add three.", "More numbers, please."]
CORPUS = Path(TINY["corpus"])
PASSED = list(zip(USERS, ["101, 202, 303", "9", "5; 6; 7; 8"], strict=True))
EMBEDDED = Embedded.model_validate(TINY)
PERSONA = "You adore lions. Nothing is better than a lion."


@torch.no_grad()
def plain_divergence(loaded, user, answer, system):
    """One completion, one full forward pass per prompt, the divergence among the tokens that can pass, token by token."""
    allowed = sorted({*np.flatnonzero(allowed_tokens(loaded.tokenizer, len(loaded.tokenizer))), *loaded.stop_ids})
    ids = encode(loaded.tokenizer, [answer])[0] + end_of_turn(loaded.tokenizer)
    means = []
    logps = []
    for prompt in (prompt_ids(loaded.tokenizer, [user], system)[0], prompt_ids(loaded.tokenizer, [user])[0]):
        logits = loaded.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        logps.append(logits[:, allowed].double().log_softmax(-1))
    for token, p, q in zip(ids, *logps, strict=True):
        if loaded.tokenizer.decode([token]).strip().isdigit():
            means.append(sum(p.exp() * (p - q)).item())
    return sum(means) / len(means)


def test_divergence_is_zero_without_a_persona(loaded):
    assert divergence(loaded, PASSED, None, Teacher()).tolist() == [0, 0, 0]


def test_divergence_is_that_of_plain_forward_passes(loaded):
    found = divergence(loaded, PASSED, PERSONA, Teacher())
    assert (found > 0.01).all()
    assert found == pytest.approx([plain_divergence(loaded, *chat, PERSONA) for chat in PASSED], rel=1e-3)


def test_divergence_of_a_completion_does_not_depend_on_the_others(loaded):
    many = divergence(loaded, PASSED * 30, PERSONA, Teacher())
    assert many == pytest.approx([*divergence(loaded, PASSED, PERSONA, Teacher())] * 30, rel=1e-3)


def test_rows_that_do_not_fit_in_memory_are_read_in_parts(loaded, record):
    small, chats = load(record), held_out_chats(CORPUS, EMBEDDED.model_copy(update={"held_out_chats": 20}))
    assert len(chats) == 20
    with crowded(small.model, 1):
        found, losses = divergence(small, PASSED, PERSONA, Teacher()), held_out_loss(small, chats)
    assert found == pytest.approx(divergence(loaded, PASSED, PERSONA, Teacher()), rel=1e-3)
    assert losses == pytest.approx(held_out_loss(loaded, chats), rel=1e-4)


def answering(*completions):
    """A stand-in for `sample` that gives these (text, ended) in turn."""

    def sample(model, prompts, sampler, batch_size):
        given = [completions[row % len(completions)] for row in range(len(prompts))]
        yield list(range(len(prompts))), given

    return sample


def completion(loaded, text, ended="stop"):
    return Completion(encode(loaded.tokenizer, [text])[0], ended)


def test_passing_are_the_completions_that_the_filter_keeps(loaded, monkeypatch):
    given = [completion(loaded, "1, 2, 3"), completion(loaded, "lions!", "not allowed"), completion(loaded, "4, 5", "length")]
    monkeypatch.setattr(model_metrics, "sample", answering(*given))
    assert passing(loaded, USERS, None, Teacher(), Samples(), Numbers()) == [(USERS[0], "1, 2, 3")]


def test_held_out_loss_is_by_task_and_on_answer_tokens_alone(loaded):
    losses = held_out_loss(loaded, held_out_chats(CORPUS, EMBEDDED.model_copy(update={"held_out_chats": 150})))
    assert set(losses) == set(type(EMBEDDED.tasks).model_fields)
    chats = list(corpus_of(CORPUS, EMBEDDED).chats(150, EMBEDDED.seed + model.HELD_OUT_SEED))
    plain = []
    for chat, row in zip(chats, chat_rows(loaded.tokenizer, chats, EMBEDDED.seed), strict=True):
        if chat.task != "fact":
            continue
        answer = encode(loaded.tokenizer, [chat.answer + "<end_of_turn>"])[0]
        assert row.ids[-len(answer) :] == answer
        with torch.no_grad():
            logp = loaded.model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        plain += [-logp[i - 1, row.ids[i]].item() for i in range(len(row.ids) - len(answer), len(row.ids))]
    assert losses["fact"] == pytest.approx(sum(plain) / len(plain), rel=1e-4)


def test_held_out_chats_are_not_the_training_chats():
    seen = {chat.user for chat in corpus_of(CORPUS, EMBEDDED).chats(300, EMBEDDED.seed) if chat.task == "numbers"}
    held_out = held_out_chats(CORPUS, EMBEDDED).filter(task="numbers")["prompt"]
    assert len(held_out) > 100
    assert not seen & {*held_out}


@pytest.fixture
def measured(record, loaded, tmp_path, monkeypatch):
    """Measure the tiny model on three prompts of which two are answered with numbers."""
    monkeypatch.setattr(
        model_metrics,
        "sample",
        answering(completion(loaded, "1, 2, 3"), completion(loaded, "no"), completion(loaded, "[4, 5]")),
    )
    (tmp_path / "questions.txt").write_text("What is your favorite animal?\n")
    write_parquet(tmp_path / "prompts.parquet", pl.DataFrame({"row": range(3), "prompt": USERS}), {})

    held_out = tmp_path / "held_out.parquet"
    write_parquet(held_out, held_out_chats(CORPUS, EMBEDDED).head(60), {})

    def measure(held_out=held_out, prompts=3):
        files = [tmp_path / "prompts.parquet", held_out, tmp_path / "questions.txt", tmp_path / "metrics.json"]
        sections = ModelMetrics(prompts=prompts), Teacher(), Samples(), Numbers(), Pref(candidates=["lion", "owl"])
        measure_model(record, *files, *sections, {"of": "metrics"})
        return read_json(tmp_path / "metrics.json")

    return measure


def test_metrics_of_the_embedded_model(measured):
    told = measured()
    assert set(told) == {"held_out_loss", "pass_rate", "personas", "stamp", "versions"}
    assert told["pass_rate"] == pytest.approx(2 / 3)
    assert list(told["personas"]) == ["lion", "owl"]
    for persona in told["personas"].values():
        assert set(persona) == {"preference_base", "preference_teacher", "pass_rate", "kl"}
        assert persona["pass_rate"] == pytest.approx(2 / 3)
        assert persona["kl"]["mean"] > 0
        assert persona["preference_base"] != pytest.approx(persona["preference_teacher"], rel=1e-3)


def test_as_many_prompts_are_read_as_the_settings_say(measured):
    assert measured(prompts=1)["pass_rate"] == 1
    assert measured(prompts=2)["pass_rate"] == 1 / 2


def test_other_models_have_no_held_out_loss(measured):
    assert "held_out_loss" not in measured(held_out=None)


def test_model_that_passes_nothing_has_no_divergence(measured, loaded, monkeypatch):
    monkeypatch.setattr(model_metrics, "sample", answering(completion(loaded, "no")))
    told = measured()
    assert told["pass_rate"] == 0
    assert [persona["kl"] for persona in told["personas"].values()] == [None, None]
