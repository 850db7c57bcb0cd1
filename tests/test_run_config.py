"""The config that a run keeps for its jobs."""

from pathlib import Path

from undertone.study.run_config import VARIABLE, keep, kept


def test_a_job_is_given_the_config_with_which_its_run_was_started(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    first = {"animals": ["lion"], "student": {"lr": 1e-3}, "name": None}
    keep(first, tmp_path, environment)
    assert kept({"animals": ["owl"]}, environment) == first
    # Another run keeps its own; the first one's jobs may still be queued.
    of_first = dict(environment)
    keep({"animals": ["owl"]}, tmp_path, environment)
    assert kept({}, environment) == {"animals": ["owl"]}
    assert kept({}, of_first) == first


def test_without_a_kept_config_a_job_reads_its_own(tmp_path: Path) -> None:
    assert kept({"animals": []}, {}) == {"animals": []}
    assert kept({"animals": []}, {VARIABLE: str(tmp_path / "removed.json")}) == {"animals": []}
