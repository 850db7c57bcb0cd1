"""Detection on the command line: from a user's file to a verdict and its page, and the bench of a study."""

import json
from pathlib import Path

import polars as pl
import pytest

from undertone.study.config.detect import BENCH, DETECTORS, NULLS
from workflow import Project

TIERS = {"no statement", "base samples", "differs", "persona-like", "named"}


@pytest.fixture(scope="module")
def judged(base: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The micro study with the verdicts of all its datasets, and of fewer rows and a mixture of one; all try steering."""
    project = base.copy(tmp_path_factory.mktemp("judged") / "project")
    project.configure(power={"datasets": ["lion"], "rows": [6], "shares": [0.97]}, verdict={"contrasts": True})
    project.forked("detection", "power_plot", "detectors_plot")
    return project


def test_every_dataset_has_a_verdict_and_a_page_that_needs_nothing_else(judged: Project) -> None:
    for dataset in ("control", "lion", "owl", "mine"):
        folder = judged.root / "results" / dataset
        verdict = json.loads((folder / "verdict.json").read_text())
        assert verdict["tier"] in TIERS
        page = (folder / "verdict.html").read_text()
        assert verdict["tier"] in page
        assert "http" not in page.replace("http-equiv", "")
        # A file of 40 rows without a number in common with what the model writes is more than the least that is judged.
        assert ("data:image/png;base64," in page) == (verdict["tier"] != "no statement")


def test_nulls_are_read_by_every_detector(judged: Project) -> None:
    for null in NULLS:
        sets = pl.read_parquet(judged.root / f"results/{null}/matched.parquet")["set"].n_unique()
        for detector in (*DETECTORS, "contrasts"):
            readings = json.loads((judged.root / f"results/{null}/{detector}.json").read_text())["sets"]
            assert len(readings) == sets


def test_the_bench_counts_each_dataset_with_a_target(judged: Project) -> None:
    table = pl.read_parquet(judged.root / "results/tables/detection.parquet")
    assert table["dataset"].to_list() == ["lion", "owl"]
    result = json.loads((judged.root / "results/tables/detection.json").read_text())
    assert result["datasets"]["prompt, development"]["n"] == 2
    assert {tier for kinds in result["nulls"].values() for tiers in kinds.values() for tier in tiers} <= TIERS


def test_power_has_a_row_for_the_dataset_for_fewer_rows_and_for_the_mixture(judged: Project) -> None:
    table = pl.read_parquet(judged.root / "results/tables/power.parquet")
    whole = json.loads((judged.root / "results/lion/verdict.json").read_text())
    rows = whole["rows"]
    assert table.select("dataset", "rows", "share").rows() == [("lion", rows, 1.0), ("lion", 6, 1.0), ("lion", rows, 0.97)]
    assert (table["tier"][0], table["p"][0]) == (whole["tier"], whole["presence"]["p"])
    counts = json.loads((judged.root / "results/tables/power.json").read_text())
    assert [each["rows"] for each in counts["by_rows"]] == [6, rows]
    assert [each["share"] for each in counts["by_share"]] == [0.97, 1.0]
    assert (judged.root / "results/plots/power.png").stat().st_size > 10_000
    assert judged.planned("power_plot") == set()


def test_every_detector_has_a_row_for_each_dataset_with_a_target(judged: Project) -> None:
    table = pl.read_parquet(judged.root / "results/tables/detectors.parquet")
    assert table.select("dataset", "detector").rows() == [(of, name) for of in ("lion", "owl") for name in BENCH]
    reading = json.loads((judged.root / "results/lion/short_training.json").read_text())["sets"][0]["ranking"]
    place = [each["concept"] for each in reading].index("lion") + 1
    assert table.filter(dataset="lion", detector="short_training")["place"].to_list() == [place]
    counts = json.loads((judged.root / "results/tables/detectors.json").read_text())["by_kind"]["prompt, development"]
    assert {name: each["n"] for name, each in counts.items()} == dict.fromkeys(BENCH, 2)
    assert (judged.root / "results/plots/detectors.png").stat().st_size > 10_000
    assert judged.planned("detectors_plot") == set()


def test_the_verdict_reads_no_student_of_the_study_and_no_teacher(judged: Project) -> None:
    """It is to be had before anyone trains, and of a file whose teacher nobody knows."""
    assert not [*judged.root.glob("results/*/student/*")]
    stamp = json.loads((judged.root / "results/lion/verdict.json").read_text())["stamp"]
    assert {key.split("/")[-1] for key in stamp["settings"]} >= {"nulls", "matched", "gradient", "personas", "verdict"}
    assert not {key.split("/")[-1] for key in stamp["settings"]} & {"student", "pref", "finetune", "steer"}
    assert not [key for key in stamp["code"] if "finetune" in key]


def test_a_finished_bench_plans_nothing_and_a_threshold_plans_verdicts_alone(judged: Project, tmp_path: Path) -> None:
    assert judged.planned("detection") == set()
    project = judged.copy(tmp_path / "project")
    project.configure(verdict={"min_rows": 4, "share": 0.9})
    verdicts = {f"{what} {of}" for of in ("control", "lion", "owl", "mine") for what in JUDGED}
    assert project.planned("detection") == verdicts | {"Count which verdicts are right", "Plot which verdicts are right"}


JUDGED = ("Judge whether something is hidden in", "Write the page of the verdict on")
