"""The lines of result at the end of a run, from the files that it made."""

import re
from pathlib import Path
from typing import Any

import pytest

from undertone.runtime.files import write_json
from undertone.study.outcome import outcome
from workflow import Project

LIFT = {"mean": 0.0854, "ci95": [0.0361, 0.1329]}


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study of two targets, its files as the stages write them."""
    monkeypatch.chdir(tmp_path)
    wrote("control/pref.json", target=None, against=None, seeds=[1, 2])
    wrote("lion/pref.json", target="lion", against="control", seeds=[1, 2], lift_over_control=LIFT)
    wrote("owl/pref-wide.json", target="owl", against="other", seeds=[1], lift_over_control={"mean": -0.0021, "ci95": None})
    wrote("lion/filter.json", passed=310, n=400)
    wrote("owl/filter.json", passed=400, n=400, constrained={"free_pass_rate": {"mean": 0.01624, "ci95": [0.01, 0.02]}})
    wrote("lion/diagnosis.json", verdict="learned but not shown", reasons=["a", "b"])
    wrote("lion/verdict.json", tier="named", sentence="The teacher was about lion.")
    for folder, transfers in (("tables", 2), ("tables/gemma", 1)):
        summary = {"targets": 2, "transfers": transfers, "transfers_holm": 1}
        wrote(f"{folder}/transfer.json", estimators={"exact": summary, "samples": {"targets": 0}})
    for name in (
        "lion/numbers.parquet",
        "owl/numbers.parquet",
        "lion/plots/pref.png",
        "lion/summary.png",
        "plots/transfer.png",
        "plots/bias_map.png",
    ):
        Path("results", name).parent.mkdir(parents=True, exist_ok=True)
        Path("results", name).touch()


def wrote(name: str, **result: Any) -> None:
    path = Path("results", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result, {})


LION = "lion: lift .085 [.036, .133] over control (2 seeds); see results/lion/plots/pref.png"
SAID = {
    "results/lion/pref.json": LION,
    "results/lion/plots/pref.png": LION,
    "results/owl/pref-wide.json": "owl: lift -.002 (one seed: no interval) over other (1 seed); see results/owl/pref-wide.json",
    "results/control/pref.json": "control: no target; see results/control/pref.json",
    "results/lion/diagnosis.json": "lion: learned but not shown; see results/lion/diagnosis.json",
    "results/lion/numbers.parquet": "lion: 310 of 400 rows pass the filter; see results/lion/filter.json",
    "results/owl/numbers.parquet": "owl: 400 of 400 rows pass the filter (constrained; free sampling: 1.62%); "
    "see results/owl/filter.json",
    "results/lion/summary.png": "lion: see results/lion/summary.png",
    "results/plots/transfer.png": "2 of 2 datasets lie above the control students, 1 after Holm's correction; "
    "see results/plots/transfer.png",
    "results/tables/gemma/transfer.json": "1 of 2 datasets lie above the control students, 1 after Holm's correction; "
    "see results/tables/gemma/transfer.json",
    "results/lion/verdict.json": "lion: named. The teacher was about lion. See results/lion/verdict.json",
    "read": "study: see results/plots/bias_map.png",
}


@pytest.mark.parametrize("target", SAID)
def test_a_target_has_a_line_of_what_it_says_and_where_to_see_it(target: str) -> None:
    assert outcome([target], "results") == [SAID[target]]


def test_all_is_what_transfers_in_the_studys_own_tables() -> None:
    assert outcome(["all"], "results") == [SAID["results/plots/transfer.png"]]
    assert outcome(["all"], "results", "gemma") == [SAID["results/tables/gemma/transfer.json"]]


def test_of_a_damaged_result_the_line_says_so() -> None:
    Path("results/lion/pref.json").write_text("{")
    (line,) = outcome(["results/lion/pref.json"], "results")
    assert line.startswith("results/lion/pref.json ")


def test_a_line_is_said_once_and_nothing_of_what_is_not_there_or_says_nothing() -> None:
    wrote("lion/score.json", presence=1)
    targets = ["results/lion/plots/pref.png", "results/lion/pref.json", "results/lion/score.json", "results/owl/pref.json"]
    assert outcome([*targets, "elsewhere/x.png", "nothing"], "results") == [LION]


def test_results_may_stand_anywhere() -> None:
    Path("results").rename("study")
    assert outcome(["study/lion/pref.json"], "study") == [LION.replace("results/", "study/")]


def test_a_run_ends_with_its_result_and_the_next_one_begins_with_its_time(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project")
    first = project.snakemake("results/mine/numbers.parquet")
    assert first.rstrip().splitlines()[-1] == "mine: 40 of 40 rows pass the filter; see results/mine/filter.json"
    assert "Estimated time" not in first
    project.configure(numbers={"seed": 3})
    line = r"^Estimated time: at least \d+ (s|min), by what jobs of the same rules took$"
    assert re.search(line, project.snakemake("results/mine/numbers.parquet"), re.MULTILINE)
    assert "rows pass" not in project.snakemake("results/mine/numbers.parquet", "-n", "--forceall")
