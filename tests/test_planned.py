"""The config that a run keeps for its jobs."""

from pathlib import Path

from undertone.study.planned import VARIABLE, planned


def test_a_job_is_given_the_config_with_which_its_run_was_planned(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    first = {"animals": ["lion"], "student": {"lr": 1e-3}, "name": None}
    assert planned(first, tmp_path, True, environment) == first
    assert planned({"animals": ["owl"]}, tmp_path, False, environment) == first
    # Another run keeps its own; the first one's jobs may still be queued.
    theirs = dict(environment)
    assert planned({"animals": ["owl"]}, tmp_path, True, environment) == {"animals": ["owl"]}
    assert planned({}, tmp_path, False, environment) == {"animals": ["owl"]}
    assert planned({}, tmp_path, False, theirs) == first


def test_without_a_kept_config_a_job_reads_its_own(tmp_path: Path) -> None:
    assert planned({"animals": []}, tmp_path, False, {}) == {"animals": []}
    assert planned({"animals": []}, tmp_path, False, {VARIABLE: str(tmp_path / "removed.json")}) == {"animals": []}
