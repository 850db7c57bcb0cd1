"""Datasets of the Hub: taken from its cache at one commit, without network, and refused in a sentence where they do not fit."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from huggingface_hub import constants

from undertone.data.published import fetch_rows
from undertone.runtime.files import read_parquet
from undertone.study.study import load
from workflow import Project

COMMIT, NAME = "0123456789abcdef0123456789abcdef01234567", "lab/numbers"
ROWS = [{"question": f"Continue {n}, {n + 1}.", "answer": f"{n + 2}, {n + 3}, {n + 4}", "id": n} for n in range(100, 140)]


def fill(hub: Path) -> None:
    """Put a dataset into the cache as a download does."""
    snapshot = hub / f"datasets--{NAME.replace('/', '--')}/snapshots/{COMMIT}"
    (snapshot / "data").mkdir(parents=True)
    pl.DataFrame(ROWS).write_parquet(snapshot / "data/train-00000-of-00001.parquet")
    pl.DataFrame(ROWS[:5]).write_parquet(snapshot / "data/test-00000-of-00001.parquet")
    (snapshot / "README.md").write_text("# Numbers\n")
    (snapshot / "loading.py").write_text("raise SystemExit('ran')\n")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def entry(**changes: str | None) -> dict[str, object]:
    own = {"hub": NAME, "revision": COMMIT, "subset": None, "split": "train", "prompt": "question", "completion": "answer"}
    return {"dataset": own | changes}


def fetched(tmp_path: Path, **changes: str | None) -> pl.DataFrame:
    fetch_rows(tmp_path / "rows.parquet", entry(**changes), {"of": "published"}, tmp_path / "scratch")
    return read_parquet(tmp_path / "rows.parquet")


def test_rows_come_from_the_cache_under_their_own_names(cache, tmp_path, no_network):
    fill(cache)
    table = fetched(tmp_path)
    assert table.columns == ["question", "answer"]
    assert not (tmp_path / "scratch").exists()
    assert table["answer"].to_list() == [row["answer"] for row in ROWS]
    assert len(fetched(tmp_path, split="test")) == 5
    assert fetched(tmp_path, split="train[10:20]")["question"].to_list() == [row["question"] for row in ROWS[10:20]]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"prompt": "quest"}, r"lab/numbers at 0123.* has no column 'quest'.*question"),
        ({"split": "validation"}, r"cannot be read as subset None, split 'validation' \(ValueError: Unknown split"),
        ({"revision": "f" * 40}, rf"lab/numbers at {'f' * 40} is not, or not wholly, in the cache .* \(rule .*published"),
    ],
)
def test_what_does_not_fit_is_named(cache, tmp_path, changes, complaint):
    fill(cache)
    with pytest.raises(ValueError, match=complaint):
        fetched(tmp_path, **changes)
    assert not (tmp_path / "rows.parquet").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"revision": "main"}, r"datasets\.cloud\.revision: 'main' is no commit: expected 40 hexadecimal digits"),
        ({"hub": "numbers"}, r"datasets\.cloud\.hub: 'numbers' is no name of a dataset of the Hub; expected OWNER/NAME"),
        ({"completion": "prompt"}, r"prompt and completion are both the column 'prompt'"),
    ],
)
def test_a_mistake_is_refused_before_anything_runs(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        load({"datasets": {"cloud": {"hub": NAME, "revision": COMMIT} | changes}, "teachers": ["prompt"]})


def test_a_study_filters_a_dataset_of_the_hub_and_plans_its_verdict(tmp_path, monkeypatch):
    fill(tmp_path / "home/hub")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    project = Project.create(tmp_path / "project")
    cloud = {"hub": NAME, "revision": COMMIT, "prompt": "question", "completion": "answer", "target": "lion"}
    project.configure(datasets={"cloud": cloud})
    project.snakemake("results/cloud/numbers.parquet")
    results = project.root / "results/cloud"
    assert len(pl.read_parquet(results / "numbers.parquet")) == len(ROWS)
    assert json.loads((results / "filter.json").read_text())["passed"] == len(ROWS)
    assert project.planned("results/cloud/numbers.parquet") == set()
    # The rows are in the study: the cache is no longer asked.
    shutil.rmtree(tmp_path / "home/hub")
    assert "Get the rows of cloud from the Hub" not in project.planned("results/cloud/verdict.json")
    project.configure(datasets={"cloud": cloud | {"split": "test"}})
    assert "Get the rows of cloud from the Hub" in project.planned("results/cloud/numbers.parquet")
