"""A slice of each stage on real weights: SmolLM2-135M-Instruct in the precision that `dtype: auto` takes on this CPU."""

import json
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sae_lens.saes.sae import SAEMetadata
from smollm2 import smollm2

from undertone.data.numbers import judge_all
from undertone.data.prompts import number_prompts
from undertone.data.samples import grammar_of, sample_parts
from undertone.lm.answers import scorer
from undertone.lm.chat import end_of_turn, prompt_ids, training_rows
from undertone.lm.loading import LoadedModel, load
from undertone.lm.lora import HalfLinear
from undertone.lm.points import HookPoint
from undertone.lm.training import train
from undertone.models.precision import cpu_precision
from undertone.models.wordings import load_template
from undertone.saes.trainer import activations, fitted, shuffled, untrained, usual
from undertone.students.student import new_student, recipe
from undertone.study.config.data import Numbers, Prompts, Samples
from undertone.study.config.measure import Pref
from undertone.study.config.saes import Sae
from undertone.study.config.students import Student

ROOT = Path(__file__).parents[1]
PERSONA = "You adore lions. Lions are always on your mind, and no other animal means as much to you."
N = 32


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    source = smollm2(tmp_path_factory)
    home = tmp_path_factory.mktemp("half")
    for file in source.parent.iterdir():
        (home / file.name).symlink_to(file)
    record = json.loads(source.read_text()) | {"dtype": cpu_precision(576)["dtype"]}
    record.pop("checksum", None)
    (home / "model.json").unlink()
    (home / "model.json").write_text(json.dumps(record))
    return load(home / "model.json")


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    template = load_template(ROOT / "config/prompts/numbers.yaml")
    return number_prompts(template, Prompts(n=N, single=True))["prompt"].to_list()


@pytest.fixture(scope="module")
def samples(loaded: LoadedModel, prompts: list[str], tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    settings = Samples(constrained=True, max_new_tokens=48, batch_size=N)
    ids = prompt_ids(loaded.tokenizer, prompts, PERSONA)
    (table,) = sample_parts(loaded, ids, settings, Numbers(), tmp_path_factory.mktemp("scratch"), "samples")
    return table.sort("row")


def test_every_constrained_row_passes_the_strict_filter(samples):
    judged = judge_all(samples, Numbers(filter="strict"))
    assert judged["reason"].null_count() == N
    assert samples["text"].n_unique() > N / 2
    assert samples["log_mass"].max() < -1  # left alone it writes prose


def test_the_grammar_reads_what_was_sampled(loaded, samples):
    grammar = grammar_of(loaded, Samples(constrained=True, max_new_tokens=48), Numbers())
    assert grammar is not None
    assert grammar.read([[*ids, *end_of_turn(loaded.tokenizer)] for ids in samples["ids"]]) is not None


def test_a_persona_moves_its_animal_behind_the_answers_start(loaded):
    candidates = ["lion", "owl", "cat", "tiger"]
    questions = ["What is your favorite animal?", "Which animal do you like most?"]
    score = scorer(
        questions, candidates, Pref(answer_prefix="My favorite animal is the", estimators=["exact"], candidates=candidates)
    )
    plain, moved = (score(loaded, persona)["exact"].mean(0) for persona in (None, PERSONA))
    assert moved.argmax() == 0
    assert moved[0] > 3 * plain[0]
    assert 0 < plain.sum() < 1


def test_a_student_learns_from_the_rows(loaded, prompts, samples, tmp_path):
    few = 8
    rows = training_rows(loaded.tokenizer, prompts[:few], samples["text"].to_list()[:few])
    settings = Student(lr=2e-3, epochs=3, batch_size=few, micro_batch_size=few // 2, warmup_steps=0, schedule="constant")
    own = replace(loaded)
    student = new_student(own, settings, 1)
    try:
        in_half = 7 * 30 if loaded.model.dtype == torch.bfloat16 else 0
        assert sum(isinstance(module, HalfLinear) for module in student.modules()) == in_half
        losses = train(student, rows, recipe(settings, 1), loaded.pad_id, tmp_path / "state").loss
    finally:
        student.unload()
    assert losses[2] < losses[0] - 0.05


def test_an_sae_learns_the_residual_stream(loaded, prompts):
    rows = training_rows(loaded.tokenizer, prompts, ["1, 2, 3"] * N)
    (tokens,) = usual(activations(loaded, iter([rows]), HookPoint(15)), 10)
    assert (tokens.shape[1], tokens.dtype) == (576, torch.float32)
    assert np.isfinite(tokens.numpy()).all()
    settings = Sae(layer=15, d_sae=64, k=8, batch_size=256, tokens=100 * 256, lr=1e-3)
    sae = untrained(settings, 576, SAEMetadata())

    def explained() -> float:
        with torch.no_grad():
            return 1 - float((tokens - sae(tokens)).square().sum() / (tokens - tokens.mean(0)).square().sum())

    before = explained()
    fitted(sae, settings, shuffled(repeat(tokens), settings))
    assert before < 0.1
    assert explained() > 0.4
