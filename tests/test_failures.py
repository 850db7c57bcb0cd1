"""What a failed job leaves on the screen and in its log: a line that says why, and a traceback only of a surprise."""

import sys
from pathlib import Path

import pytest

from undertone.runtime.errors import ConfigError
from undertone.runtime.failures import failures, is_sentence, last_word, said
from undertone.study.job import logged
from workflow import Project


@pytest.fixture(autouse=True)
def own_excepthook(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that failed prints no traceback of its own; a test does."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def log_of(error: Exception, tmp_path: Path) -> list[str]:
    with pytest.raises(type(error)), logged(str(tmp_path / "log")):
        raise error
    return (tmp_path / "log").read_text().splitlines()[1:]


def test_a_sentence_of_ours_stands_alone_in_the_log(tmp_path: Path) -> None:
    assert log_of(ConfigError("a.csv: no row\nb.csv: no row"), tmp_path) == ["Failed: a.csv: no row; b.csv: no row"]
    assert last_word(tmp_path / "log") == "a.csv: no row; b.csv: no row"


def test_a_surprise_has_its_traceback_and_its_kind(tmp_path: Path) -> None:
    first, *_, last = log_of(KeyError("a"), tmp_path)
    assert first == "Traceback (most recent call last):"
    assert last == "Failed: KeyError: 'a'"


def test_a_value_error_is_a_sentence_where_this_project_raised_it(tmp_path: Path) -> None:
    from undertone.data.datasets import read_dataset
    from undertone.lm.sampling import shared_prefix

    with pytest.raises(ValueError) as ours:
        read_dataset(tmp_path / "a.csv", "prompt", "completion")
    with pytest.raises(ValueError) as others:
        int("three")
    with pytest.raises(ValueError) as built_in:
        shared_prefix([])
    assert is_sentence(ours.value)
    assert not is_sentence(others.value)
    assert said(built_in.value).startswith("ValueError: min() ")
    assert said(others.value).startswith("ValueError: invalid literal")


def test_a_job_that_ended_well_or_was_killed_says_nothing(tmp_path: Path) -> None:
    for text in ("", "2026-01-01, here\n", "2026-01-01, here\nFailed: before\nand then on\n"):
        (tmp_path / "log").write_text(text)
        assert last_word(tmp_path / "log") == ""
    assert last_word(tmp_path / "none") == ""


def test_every_failed_job_has_a_line(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.log").write_text(f"here\nFailed: {name} is wrong\n")
    (tmp_path / "snakemake.log").write_text(
        "Error in rule x:\n"
        f"    log: {tmp_path}/a.log, {tmp_path}/slurm.log (check log file(s) for error details)\n"
        f"    log: {tmp_path}/b.log (check log file(s) for error details)\n"
        f"    log: {tmp_path}/a.log (check log file(s) for error details)\n"
    )
    lines = [f"a is wrong ({tmp_path}/a.log)", f"b is wrong ({tmp_path}/b.log)"]
    assert failures([tmp_path / "snakemake.log"]) == lines


def test_what_failed_is_the_last_on_the_screen_and_has_no_traceback(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project")
    (project.root / "mine.csv").write_text("prompt,completion\na,hello there\n")
    (project.root / "yours.csv").write_text("prompt,completion\na,also none\n")
    project.configure(datasets={"yours": {"file": "yours.csv"}})
    output = project.snakemake("results/mine/numbers.parquet", "results/yours/numbers.parquet", "-k", "-c1", fails=True)
    assert "Traceback" not in output
    title, *lines = output.strip().splitlines()[-3:]
    assert title == "What failed:"
    assert sorted(lines) == [
        f"{name}.csv: none of the 1 rows passes the lenient filter (1 invalid format) (logs/numbers/{name}.log)"
        for name in ("mine", "yours")
    ]
