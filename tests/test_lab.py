"""`snakemake lab` on the micro study and on a named model: what it makes, and what an edit makes stale."""

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from checkpoints import download

from undertone.runtime.files import read_json
from workflow import Project

READ, WRITE = "Read what each feature of the SAE is", "Write the page of the SAE's features"
MAP, MAP_PLOT = "Lay out the SAE's features in two dimensions", "Plot the map of the features"
NEURONS = {"Compare features with neurons of the MLPs", "Plot how far features are neurons"}
NEAR = {"Find the features nearest to each", "Plot how near the nearest features are", MAP, MAP_PLOT}
MEASURE = {"Measure how well the SAE describes the base model", "Plot how much the SAE explains"}
CONCEPTS = {"Compare the SAE's features with concepts", "Plot features and neurons against concepts"}
NAMED = {"Find the names that have a feature of their own", "Plot the names that have a feature of their own"}
KNOWN = {"Train SAEs on activations whose features are known", "Plot what SAEs recover of known features"}
COMPARE = CONCEPTS | NAMED


@pytest.fixture(scope="module")
def finished(base: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = base.copy(tmp_path_factory.mktemp("lab") / "project")
    said = project.forked("lab")
    assert re.search(r"^sae: 64 features on 3,\d+ tokens, .*; see results/sae/features\.html$", said, re.MULTILINE)
    return project


def test_every_feature_has_its_row_and_its_examples(finished: Project) -> None:
    home = finished.root / "results/sae"
    features, examples = (pl.read_parquet(home / f"{name}.parquet") for name in ("features", "examples"))
    summary = read_json(home / "features.json")
    assert features["feature"].to_list() == list(range(64))
    assert summary["tokens"] >= 3_000
    assert summary["dead"] == features["dead"].sum()
    assert summary["l0"] == pytest.approx(4, abs=1e-6)
    assert set(examples["feature"]) == set(features.filter(~pl.col("dead"))["feature"])
    assert summary["stamp"]["settings"]["features"]["features"]["top"] == 20
    assert finished.planned("lab") == set()


def test_any_feature_has_a_page_of_its_own_on_request(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    page = "results/sae/features/63.html"
    assert project.planned(page) == {f"{WRITE}/63"}
    said = project.forked(page)
    assert re.search(r"^sae: see results/sae/features/63\.html$", said, re.MULTILINE)
    assert "1 of 64 features" in (project.root / "logs/browser/study/63.log").read_text()
    assert project.planned(page) == set()
    assert project.planned("lab") == set()
    project.configure(browser={"max_junk": 0.9})
    assert project.planned(page) == {f"{WRITE}/63"}


def test_a_language_model_grades_examples_on_request(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    plot = "results/sae/plots/judge.png"
    grade = {"Let a language model grade the features' examples", "Plot the grades of the features' examples"}
    assert project.planned(plot) == grade
    said = project.forked(plot)
    result = read_json(project.root / "results/sae/judge.json")
    assert f"sae: {result['verdict']}; see {plot}" in said
    assert result["judge"] == "the embedded model"
    assert project.planned(plot, "lab") == set()
    project.configure(judge={"features": 3})
    assert project.planned(plot, "lab") == grade


def test_what_any_feature_causes_is_measured_on_request_and_then_stands_on_the_page(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    home = project.root / "results/sae"
    table = pl.read_parquet(home / "features.parquet")
    alive, dead = (table.filter(pl.col("dead") == is_dead)["feature"] for is_dead in (False, True))
    plot = f"results/sae/influence/plots/{alive[0]}.png"
    cause = {f"Measure what the SAE's feature {alive[0]} causes", f"Plot what the SAE's feature {alive[0]} causes"}
    assert project.planned(plot) == cause
    said = project.forked(plot)
    verdict = read_json(home / f"influence/{alive[0]}.json")["verdict"]
    assert f"sae: {verdict}; see {plot}" in said
    assert project.planned(plot) == set()
    assert project.planned("lab") == {WRITE}
    project.forked("lab")
    assert "What it causes" in (home / "features.html").read_text()
    assert json.dumps(verdict)[1:20] in (home / "features.html").read_text()
    assert project.planned("lab") == set()
    if len(dead):
        said = project.snakemake(f"results/sae/influence/{dead[0]}.json", fails=True)
        assert f"feature {dead[0]} is dead: fired on 0 of 3," in said
    project.configure(influence={"nulls": 3})
    assert project.planned(plot) == cause
    assert project.planned("lab") == set()


@pytest.mark.parametrize(
    ("edit", "stale"),
    [
        ({"features": {"top": 9}}, {READ, WRITE, MAP_PLOT}),
        ({"neurons": {"shifts": 2}}, NEURONS | {WRITE}),
        ({"map": {"min_dist": 0.1}}, {MAP, MAP_PLOT, WRITE}),
        ({"browser": {"max_junk": 0.9}}, {WRITE}),
        ({"neighbours": {"k": 9}}, NEAR | {WRITE}),
        ({"specificity": {"bands": 4}}, CONCEPTS | {WRITE}),
        ({"completeness": {"f1": 0.4}}, NAMED),
        ({"synthetic": {"recovered": 0.8}}, KNOWN),
        ({"contexts": {"tokens": 4_000}}, {READ, WRITE, "Draw chats to read features on"} | MEASURE | NEAR | COMPARE | NEURONS),
        ({"sae": {"k": 5}}, {READ, WRITE, "Prepare the SAE"} | MEASURE | NEAR | COMPARE | NEURONS),
        ({"student": {"rank": 4}}, set()),
    ],
    ids=["examples", "neurons", "map", "page", "neighbours", "bands", "covered", "known", "tokens", "k", "student"],
)
def test_what_changes_reruns_what_depends_on_it(
    finished: Project, tmp_path: Path, edit: dict[str, Any], stale: set[str]
) -> None:
    project = finished.copy(tmp_path / "project")
    project.configure(**edit)
    assert project.planned("lab") == stale


def test_features_of_a_named_models_sae_are_read_on_text_behind_that_of_its_training(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project")
    lines = "".join((Path("docs") / f"{name}.md").read_text() for name in ("concepts", "models"))
    (project.root / "mine.txt").write_text(lines)
    sae = {"d_sae": 48, "k": 4, "tokens": 2_000, "batch_size": 256, "layer": 3, "context": 32, "text": [{"file": "mine.txt"}]}
    project.configure(model={"name": str(download(tmp_path / "hub", "smol"))}, sae=sae, contexts={"tokens": 1_500})
    project.forked("lab")
    assert read_json(project.root / "results/sae/features.json")["tokens"] >= 1_500
    assert "tokens of text in" in (project.root / "logs/contexts/study.log").read_text()
    assert project.planned("lab") == set()
