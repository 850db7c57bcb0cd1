"""Where a study's files stand, and where none can."""

import json
import os
from pathlib import Path

import polars as pl
import pytest

from undertone.runtime.errors import ConfigError
from undertone.study.config.entries import CONTROL
from undertone.study.job import benchmark_of, scratch
from undertone.study.paths import BENCHMARKS, LOGS, RESERVED, SCRATCH, folder_of, usable_root
from undertone.study.study import load
from workflow import Project


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with what a clone holds, and another folder beside it."""
    (tmp_path / "elsewhere").mkdir()
    for name in ("config", "workflow", "tests", ".git", "results/lion"):
        (tmp_path / "clone" / name).mkdir(parents=True)
    (tmp_path / "clone/README.md").touch()
    (tmp_path / "clone/results/lion/numbers.parquet").touch()
    monkeypatch.chdir(tmp_path / "clone")
    return tmp_path / "clone"


@pytest.mark.parametrize(
    ("results", "root", "logs"),
    [
        ("results", "results", "logs"),
        ("results/", "results", "logs"),
        ("./results/gemma//", "results/gemma", "logs/gemma"),
        ("a/../results/gemma", "results/gemma", "logs/gemma"),
        ("results/gemma/two", "results/gemma/two", "logs/gemma/two"),
        ("my study", "my study", "my study/logs"),
        ("results-2", "results-2", "results-2/logs"),
        ("a", "a", "a/logs"),
        ("results/a", "results/a", "logs/a"),
        ("../elsewhere", "../elsewhere", "../elsewhere/logs"),
        ("../elsewhere/", "../elsewhere", "../elsewhere/logs"),
        ("../clone/results/b", "../clone/results/b", "logs/b"),
    ],
)
@pytest.mark.usefixtures("clone")
def test_a_root_is_one_folder_however_it_is_written(results: str, root: str, logs: str) -> None:
    assert load({"results": results}).results == root
    assert folder_of(root, LOGS) == os.path.normpath(logs)
    assert folder_of(root, BENCHMARKS) == os.path.normpath(logs).replace("logs", "benchmarks")


def test_an_absolute_root_and_a_link_to_another_disk_hold_their_own_logs(clone: Path) -> None:
    elsewhere = str(clone.parent / "elsewhere")
    assert folder_of(elsewhere, LOGS) == f"{elsewhere}/logs"
    (clone / "results/far").symlink_to(elsewhere)
    assert folder_of("results/far", SCRATCH) == "results/far/scratch"
    assert folder_of(str(clone / "results/a"), LOGS) == "logs/a"


@pytest.mark.usefixtures("clone")
def test_no_two_studies_share_a_folder() -> None:
    roots = ["results", "results/a", "a", "../a", "../elsewhere/a", "results/b/a", "b/a", "results-a", "a/b", "a/results"]
    folders = [folder_of(root, kind) for root in roots for kind in (LOGS, BENCHMARKS, SCRATCH)]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize(
    ("results", "complaint"),
    [
        ("", "the results need a folder of their own"),
        (" ", "the results need a folder of their own"),
        (".", "holds the project itself"),
        ("./", "holds the project itself"),
        ("..", "holds the project itself"),
        ("/", "holds the project itself"),
        ("results/..", "holds the project itself"),
        ("../clone", "holds the project itself"),
        ("~/x", "'~' means nothing here: write the whole path"),
        ("~", "'~' means nothing here"),
        ("{x}", "braces are Snakemake's wildcards"),
        ("a\nb", "control characters"),
        ("README.md", "cannot be made: README.md is a file"),
        ("README.md/a", "cannot be made: README.md is a file"),
        ("config", "is in config, a folder of the project"),
        ("config/mine", "is in config, a folder of the project"),
        ("../clone/workflow", "is in workflow, a folder of the project"),
        ("tests", "is in tests, a folder of the project"),
        ("logs", "is in logs, a folder of the project"),
        ("scratch/a", "is in scratch, a folder of the project"),
        (".git", "is in .git, a folder of the project"),
        ("results/lion", "holds numbers.parquet: it is the folder of another study's dataset"),
        ("results/model", "is in model, which is no study's own folder"),
        ("results/gemma/plots", "is in plots, which is no study's own folder"),
        ("results/control", "is in control, which is no study's own folder"),
        ("results/slurm", "is in slurm, which is no study's own folder"),
    ],
)
@pytest.mark.usefixtures("clone")
def test_what_cannot_be_a_root_is_refused(results: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as error:
        load({"results": results})
    assert str(error.value).startswith("results: ")
    assert complaint in str(error.value)
    assert repr(results) in str(error.value)


def test_a_root_on_a_folder_that_exists_is_kept(clone: Path) -> None:
    (clone.parent / "elsewhere/lion").mkdir()
    (clone.parent / "elsewhere/lion/numbers.parquet").touch()
    assert usable_root("../elsewhere", (*RESERVED, CONTROL)) == "../elsewhere"


@pytest.mark.parametrize(
    ("log", "benchmark"),
    [
        ("logs/student/lion-1.log", "benchmarks/student/lion-1.jsonl"),
        ("/logs/me/logs/student/lion-1.log", "/logs/me/benchmarks/student/lion-1.jsonl"),
        ("../x/logs/model/study.log", "../x/benchmarks/model/study.jsonl"),
    ],
)
def test_a_jobs_benchmark_stands_beside_its_log(log: str, benchmark: str) -> None:
    assert str(benchmark_of(log)) == benchmark


def test_unfinished_work_stands_beside_the_logs_and_on_the_disk_of_the_results(clone: Path) -> None:
    elsewhere = clone.parent / "elsewhere"
    for folder in (clone / "logs", elsewhere / "logs"):
        folder.mkdir()
    inside, outside = scratch("results/lion/samples.parquet", {}), scratch(f"{elsewhere}/lion/samples.parquet", {})
    assert str(inside.parent) == "scratch/results/lion/samples.parquet"
    assert outside.parent == elsewhere / "scratch/lion/samples.parquet"
    assert str(scratch("../elsewhere/model/model.json", {}).parent) == "../elsewhere/scratch/model/model.json"
    assert scratch("results/lion/samples.parquet", {}) == inside
    assert not scratch("results/lion/samples.parquet", {"of": "another stamp"}).samefile(clone)
    assert not inside.exists()


@pytest.mark.parametrize("name", [LOGS, BENCHMARKS, SCRATCH])
def test_no_dataset_is_called_like_them(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a dataset"):
        load({"animals": [name]})


def test_no_dataset_stands_in_another_studys_results(clone: Path) -> None:
    study = {"animals": ["owl"], "pref": {"candidates": ["owl"]}}
    load(study)
    (clone / "results/owl").mkdir()
    (clone / "results/owl/prompts.parquet").touch()
    with pytest.raises(ConfigError, match=r"results/owl holds another study's results; give the dataset 'owl' another name"):
        load(study)


@pytest.mark.parametrize("kind", ["absolute", "up"])
def test_a_study_elsewhere_runs_and_leaves_nothing_in_the_clone(tmp_path: Path, kind: str) -> None:
    project = Project.create(tmp_path / "project")
    (tmp_path / "far").mkdir()
    root = str(tmp_path / "far/study") if kind == "absolute" else "../far/study"
    project.configure(
        results=root + "/", model={"embedded": {"steps": 2, "warmup_steps": 1, "vocab_size": 1400}}, student={"seeds": [1]}
    )
    before = {path for path in project.root.rglob("*") if ".snakemake" not in path.parts}
    targets = [f"{root}/lion/samples.parquet", f"{root}/tables/costs.json"]
    project.snakemake(targets[0])
    project.snakemake(targets[1])
    study = tmp_path / "far/study"
    assert len(pl.read_parquet(study / "lion/samples.parquet")) == 96
    costs = json.loads((study / "tables/costs.json").read_text())
    assert {rule["rule"] for rule in costs["rules"]} == {"model", "prompts", "samples"}
    assert {path.name for path in study.iterdir()} == {
        *("model", "prompts.parquet", "lion", "tables"),
        *(LOGS, BENCHMARKS, SCRATCH),
    }
    assert not [path for path in (study / SCRATCH).rglob("*") if path.is_file()]
    after = {path for path in project.root.rglob("*") if ".snakemake" not in path.parts}
    assert {path for path in after - before if "__pycache__" not in path.parts} == set()
    assert project.planned(targets[0]) == set()
