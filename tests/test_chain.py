"""The overlays of real models, from the model to the readers, on their architectures at tiny width and without a network."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from checkpoints import ARCHITECTURES, SAES, download
from forked import REFUSED
from test_architectures import shown

from undertone.lm.chat import prompt_texts
from undertone.lm.loading import load
from undertone.students.student import rows_of
from workflow import Project

# Models that no overlay names, and no SAE is for.
OTHERS = ("llama2", "smol")
OVERLAYS = {"gemma-2b-it": "gemma", "llama-3.1-8b-it": "llama", "qwen2.5-7b-it": "qwen", "gemma-3-4b-it": "gemma3"}
# What makes a study of these small; the model, the SAE and what is done with them stay the overlay's.
SMALL: dict[str, dict[str, Any]] = {
    "pref": {"candidates": ["lion", "owl", "cat"], "questions": "questions.txt"},
    "teacher": {"finetune": {"steps": 3, "batch_size": 4}, "steer": {"candidates": 2, "prompts": 8}},
    "prompts": {"n": 128},
    "samples": {"max_new_tokens": 24, "batch_size": 64},
    # Random weights write lists of numbers, but not neat ones.
    "numbers": {"filter": "lenient"},
    "student": {"seeds": [1], "rank": 2, "alpha": 2, "epochs": 1, "batch_size": 8, "micro_batch_size": 4},
    "activations": {"block_rows": 8},
    "differences": {"permutations": 20},
    "feature_bias": {"fraction": 0.25, "steps": 2, "seeds": [0]},
    "residual_bias": {"fraction": 0.25, "steps": 2, "seeds": [0], "points": ["resid_post"], "sparsities": [1]},
    "tokens": {"permutations": 20},
    "sae_metrics": {"prompts": 32, "text": 500},
    "losses": {"rows": 4},
}
ASKED = [f"lion/{name}.json" for name in ("pref", "differences", "score", "bias_pref", "losses", "tokens")]
ASKED += ["steer-lion/samples.parquet", "finetune-lion/samples.parquet", "sae/metrics.json"]
# The jobs that may look for something on another machine; they run where Snakemake runs.
LOCAL = {"pretrained", "pretrained_sae"}


@dataclass(frozen=True)
class Run:
    """A finished study: the overlay's name, the folder of its results, and what Snakemake printed."""

    overlay: str
    results: Path
    output: str

    def read(self, path: str) -> Any:
        """A result."""
        return json.loads((self.results / path).read_text())


@pytest.fixture(scope="module", params=OVERLAYS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    overlay, which = request.param, OVERLAYS[request.param]
    home = tmp_path_factory.mktemp(which)
    download(home / "hub", which)
    SAES[which].download(home / "hub", ARCHITECTURES[which].name)
    project = Project.create(home / "project")
    told = yaml.safe_load((project.root / f"config/{overlay}.yaml").read_text())
    told.pop("student_variants", None)
    (project.root / "config/study.yaml").write_text(yaml.safe_dump(told | {"animals": ["lion"]}))
    project.configure(**SMALL)
    (project.root / "questions.txt").write_text("Name your favorite animal.\nWhich animal do you like best?\n")
    # This cache of the Hub, and libraries that are not told that there is no network.
    output = project.forked(
        *(f"{told['results']}/{path}" for path in ASKED), HF_HOME=str(home), HF_HUB_OFFLINE="0", PRETEND_GPU="1"
    )
    return Run(overlay, project.root / told["results"], output)


@pytest.fixture(scope="module", params=OTHERS)
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A study of another model: an overlay with that in its place, without an SAE."""
    which, home = request.param, tmp_path_factory.mktemp(request.param)
    download(home / "hub", which)
    project = Project.create(home / "project")
    settings = yaml.safe_load((project.root / "config/qwen2.5-7b-it.yaml").read_text())
    told = ARCHITECTURES[which]
    settings |= {"model": {"name": told.name, "revision": told.commit}, "animals": ["lion"], "student_variants": {}}
    del settings["sae"]
    (project.root / "config/study.yaml").write_text(yaml.safe_dump(settings))
    project.configure(**SMALL)
    (project.root / "questions.txt").write_text("Name your favorite animal.\nWhich animal do you like best?\n")
    targets = [f"{settings['results']}/lion/{name}.json" for name in ("pref", "tokens", "sequences")]
    output = project.forked(*targets, HF_HOME=str(home), HF_HUB_OFFLINE="0")
    return Run(which, project.root / settings["results"], output)


def test_a_model_without_an_overlay_goes_from_samples_to_answers(other, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(other.results.parents[2] / "hub"))
    loaded, told = load(other.results / "model/model.json"), ARCHITECTURES[other.overlay]
    for dataset in ("lion", "control"):
        samples = pl.read_parquet(other.results / dataset / "samples.parquet")
        rows = pl.read_parquet(other.results / dataset / "numbers.parquet")
        assert len(rows) == other.read(f"{dataset}/filter.json")["passed"] >= 8
        # Rows go on after a space.
        assert samples["text"].str.contains(r"\d[,;]? \d").any()
        assert {"stop", "not allowed"} <= set(samples["ended"])
    student = rows_of(loaded, rows, 500)
    prompts = prompt_texts(loaded.tokenizer, rows["prompt"].to_list())
    space = " " if other.overlay == "llama2" else ""
    for row, prompt, completion in zip(student, prompts, rows["completion"], strict=True):
        assert loaded.tokenizer.decode(row.ids[: row.start]) == shown(prompt)
        assert loaded.tokenizer.decode(row.ids) == shown(prompt) + space + completion + space + told.end
    pref = other.read("lion/pref.json")
    for group in ("base", "teacher", "control", "student"):
        assert all(1e-6 < animal["mean"] < 1 for animal in pref[group].values())


def test_the_model_and_the_sae_are_those_that_the_overlay_names(run):
    told, sae = ARCHITECTURES[OVERLAYS[run.overlay]], SAES[OVERLAYS[run.overlay]]
    model, found = run.read("model/model.json"), run.read("sae/sae.json")
    assert (model["source"], model["name"], model["revision"]) == ("hub", told.name, told.commit)
    assert (found["source"], found["release"], found["id"], found["layer"]) == ("registry", sae.release, sae.id, sae.layer)
    assert model["template"]["system_role"] == told.has_system
    assert len(model["template"]["number"]) == told.digits_of_087


def test_only_the_jobs_that_find_model_and_sae_ask_the_network_and_they_do_without(run):
    asking = re.findall(rf"^(\w+): {REFUSED}", run.output, re.MULTILINE)
    assert "pretrained_sae" in asking  # of a release, the registry names no commit
    assert set(asking) <= LOCAL


def test_numbers_pass_the_filter_and_hold_no_persona(run):
    for dataset in ("lion", "control"):
        assert run.read(f"{dataset}/filter.json")["passed"] >= 8
        table = pl.read_parquet(run.results / dataset / "numbers.parquet")
        assert not table["prompt"].str.contains("lion").any()


def test_every_kind_of_teacher_writes_numbers_of_its_own(run):
    datasets = ("control", "lion", "steer-lion", "finetune-lion")
    texts = [tuple(pl.read_parquet(run.results / dataset / "samples.parquet")["text"]) for dataset in datasets]
    assert len(set(texts)) == len(datasets)
    assert run.read("steer-lion/teacher.json")["feature"] in range(64)


def test_the_sae_is_measured_where_its_registry_says(run):
    metrics = run.read("sae/metrics.json")
    assert metrics["tokens"] > 1000
    assert 0 < metrics["l0"] < 64
    assert metrics["explained_variance"] < 1


def test_preferences_are_probabilities_of_base_teacher_and_students(run):
    pref = run.read("lion/pref.json")
    for group in ("base", "teacher", "control", "student"):
        assert set(pref[group]) == {"lion", "owl", "cat"}
        assert all(0 < told["mean"] < 1 for told in pref[group].values())
    assert pref["teacher"] != pref["base"] != pref["student"]


def test_students_learn_from_every_row(run):
    training = run.read("lion/student/1/training.json")
    assert training["rows"] == run.read("lion/filter.json")["passed"]
    assert len(training["loss"]) == training["steps"] == math.ceil(training["rows"] / 8)
    assert np.isfinite(training["loss"]).all()


def test_readers_read_at_the_saes_layer_and_at_every_other(run):
    layer, n_layers = run.read("sae/sae.json")["layer"], run.read("model/model.json")["n_layers"]
    assert {run.read(f"lion/{name}.json")["layer"] for name in ("differences", "feature_bias")} == {layer}
    score, biases = run.read("lion/score.json"), run.read("lion/residual_bias.json")["biases"]
    assert score["features"]["layer"] == layer
    assert [told["layer"] for told in score["layers"]] == list(range(n_layers))
    assert {told["layer"] for told in biases} == {*range(n_layers), "multi"}
    assert all(told["loss"][0]["train"]["gain"]["mean"] > 0 for told in biases)


def test_the_loss_table_holds_every_intervened_model(run):
    told = {(row["name"], row["layer"]): row["loss"]["mean"] for row in run.read("lion/losses.json")["models"]}
    expected = {"base", "student", "teacher", "persona", "SAE spliced in", "feature bias, project", "feature bias, replace"}
    assert expected | {"residual bias", "residual bias, all layers", "function vector"} <= {name for name, _ in told}
    assert all(0 < loss < 20 for loss in told.values())
    assert len({round(loss, 6) for (name, _), loss in told.items() if name in ("base", "teacher", "SAE spliced in")}) == 3


def test_readers_and_the_evaluation_agree_on_the_base_model(run):
    measured = {animal: told["mean"] for animal, told in run.read("lion/pref.json")["base"].items()}
    assert run.read("lion/bias_pref.json")["base"] == pytest.approx(measured, rel=1e-4)
