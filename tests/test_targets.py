"""What is said of a target that the study does not have."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from example import study

from undertone.study.targets import refusal
from workflow import Project

RULES = ["all", "read", "pref", "transfer"]
MADE = {
    "lion": ["pref.json", "bias_pref.json", "diagnosis.json", "numbers.parquet", "student/1/training.json"],
    "steer-lion": ["pref.json", "diagnosis.json"],
    "control": ["pref.json", "numbers.parquet"],
    "model": ["model.json", "metrics.json"],
    "plots": ["transfer.png", "sweep-rank.png"],
}
SWEPT = {"student_variants": {"rank64": {"rank": 64, "datasets": ["owl"]}}, "sweeps": {"rank": ["rank64"]}}
NONE: dict[str, Any] = {"results": "results"}
CASES = [
    ("results/lion/prof.json", NONE, "no rule makes it; nearest: pref.json, bias_pref.json"),
    ("results/model/metrcs.json", NONE, "no rule makes it; nearest: metrics.json"),
    ("results/loin/pref.json", NONE, "the study has no dataset 'loin'; nearest: lion"),
    ("results/lion", NONE, "is a folder; ask for a file in it, such as results/lion/pref.json"),
    ("results/lion/", NONE, "is a folder; ask for a file in it, such as results/lion/pref.json"),
    ("results/model", NONE, "is a folder; ask for a file in it, such as results/model/model.json"),
    ("results/nulls", NONE, r"holds a folder for each kind of null dataset \(seeds, prompts, .*\); ask for a file in one"),
    ("results/nulls/seed/surface.json", NONE, "holds a folder for each kind of null dataset"),
    ("results/mixtures", {"results": "results", "power": {"datasets": []}}, "no rule makes a file in it: the config names no"),
    ("results", NONE, "is the folder of all results; ask for `all`, or for a file in it"),
    ("results/control/diagnosis.json", NONE, "control has no diagnosis.json, which only these have: lion, steer-lion"),
    ("results/lion/pref-rank99.json", NONE, "the study has no student variant 'rank99'; nearest: rank64"),
    ("results/lion/student-rnak64/1/training.json", NONE, "the study has no student variant 'rnak64'; nearest: rank64"),
    ("results/plots/sweep-rnak.png", NONE, "the study has no sweep of 'rnak'; nearest: rank"),
    ("results/lion/student/01/training.json", NONE, "a student's seed is a whole number from 0 to .*, found '01'"),
    ("results/lion/student/-1/training.json", NONE, "a student's seed is a whole number from 0 to .*, found '-1'"),
    ("results/lion/student/1e3/training.json", NONE, "a student's seed is a whole number from 0 to .*, found '1e3'"),
    ("results/lion/student/99999999999999999999/training.json", NONE, "a student's seed is a whole number from 0 to"),
    ("/nowhere/lion/pref.json", NONE, "is no file of the study, whose results are in results"),
    ("../other/pref.json", NONE, "is no file of the study, whose results are in results"),
    ("logs/pref/lion.log", NONE, "is no file of the study, whose results are in results"),
    ("al", NONE, "no rule is called so; nearest: all; a file is asked for by its path"),
    ("results/lion/prof.json", {"results": "/data/study"}, "is no file of the study, whose results are in /data/study"),
    ("/data/study/lion/prof.json", {"results": "/data/study"}, "no rule makes it; nearest: pref.json"),
    ("results/tables/transfer.json", {"name": "small"}, "this study's name is small, .* in results/tables/small/"),
    (
        "results/sae/sae.json",
        {"model": {"name": "a/b", "revision": "a" * 40}, "saes": None, "pairs": None, "searches": None, "teachers": []},
        "the study names no SAE for a/b",
    ),
]


def files(folder: str) -> Iterator[str]:
    yield from MADE.get(folder, [])


@pytest.mark.parametrize(("target", "changes", "says"), CASES, ids=[f"{target} {changes}" for target, changes, _ in CASES])
def test_a_target_that_no_rule_makes_is_refused_with_the_nearest(target: str, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"^{target}: {says}"):
        raise ValueError(refusal(target, study(**SWEPT, **changes), RULES, files))


def test_without_sweeps_the_config_that_has_some_is_named() -> None:
    told = study()
    bare = told.model_copy(update={"sweeps": {}, "student_variants": {}})
    said = refusal("results/plots/sweep-rank.png", bare, RULES, files)
    assert said.endswith("no sweep of 'rank': its config has no `sweeps` (config/sweeps.yaml has some)")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.create(tmp_path_factory.mktemp("targets") / "project")


def last_line(output: str) -> str:
    return output.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("results/lion/prof.json", "results/lion/prof.json: no rule makes it; nearest: pref.json"),
        ("results/control/diagnosis.json", "control has no diagnosis.json, which only these have: lion, owl"),
        ("results/lion/student/01/training.json", "found '01'"),
        ("results/lion/student/99999999999999999999/training.json", "found '99999999999999999999'"),
        ("pref", "pref: this rule makes many files; ask for one by its path, such as results/{dataset}/pref"),
        ("prf", "prf: no rule is called so; nearest: pref"),
    ],
)
def test_the_sentence_is_the_last_on_the_screen(project: Project, target: str, says: str) -> None:
    assert says in last_line(project.dry_run(target, fails=True))


def test_without_an_sae_no_rule_makes_one(project: Project, tmp_path: Path) -> None:
    bare = project.copy(tmp_path / "project")
    bare.configure(model={"name": "a/model", "revision": "a" * 40}, teachers=["prompt"])
    for name in ("sae", "metrics"):
        said = last_line(bare.dry_run(f"results/sae/{name}.json", fails=True))
        assert f"results/sae/{name}.json: the study names no SAE for a/model" in said


def test_an_absolute_target_is_told_how_to_write_it(project: Project) -> None:
    output = project.dry_run(str(project.root / "results/lion/pref.json"), fails=True)
    assert "write it as results/lion/pref.json" in last_line(output)


def test_targets_that_are_only_written_otherwise_are_planned(project: Project) -> None:
    planned = project.planned("results/prompts.parquet")
    assert planned == {"Write the number prompts"}
    for target in ("./results/prompts.parquet", "results//prompts.parquet", "prompts"):
        assert project.planned(target) == planned


def test_mistakes_in_the_config_are_the_last_on_the_screen(tmp_path) -> None:
    project = Project.create(tmp_path / "project")
    project.configure(student={"epoch": 3}, samples={"temperature": "hot"})
    lines = project.dry_run(fails=True).strip().splitlines()
    assert lines[-3] == "The config has mistakes:"
    assert lines[-2].startswith("samples.temperature: ")
    assert lines[-1] == "student.epoch: unknown key; nearest: epochs"


@pytest.mark.parametrize("name", ["config", "study"])
def test_a_key_that_stands_twice_in_a_config_is_the_last_on_the_screen(tmp_path: Path, name: str) -> None:
    project = Project.create(tmp_path / "project")
    path = project.root / f"config/{name}.yaml"
    n = len(path.read_text().splitlines())
    path.write_text(path.read_text() + "results: elsewhere\nresults: here\n")
    last = last_line(project.dry_run(fails=True))
    assert re.search(
        rf"{name}\.yaml, line \d+: the key 'results' stands twice in one section, first in line \d+; keep one$", last
    )
    assert f"line {n + 1 if name == 'config' else n + 2}:" in last


def test_a_config_that_is_no_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project")
    (project.root / "config/config.yaml").write_text("animals: [lion]\nstudent: lr: 1\n")
    said = last_line(project.dry_run(fails=True))
    assert said == "config/config.yaml, line 2: mapping values are not allowed here"
    check = [sys.executable, "-m", "undertone.study.configfiles", "config/config.yaml"]
    done = subprocess.run(check, cwd=project.root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"{said}\n")


def test_another_study_s_datasets_that_are_missing_are_named_before_any_job_begins(project: Project, tmp_path: Path) -> None:
    own = project.copy(tmp_path / "project")
    own.configure(saes={"seed1": {"seed": 1}}, pairs={"seeds": {"b": "seed1", "datasets": "results/second"}})
    (own.root / "results/second/lion").mkdir(parents=True)
    (own.root / "results/second/lion/matched.parquet").touch()
    said = last_line(own.dry_run("pairs", fails=True))
    assert said.startswith(
        "pairs.seeds.datasets: no such file 'results/second/owl/matched.parquet', which the study of model b writes: run "
        "snakemake results/second/owl/matched.parquet with that study's --configfile, or name fewer animals"
    )
    assert own.planned("results/pair-seeds/similarity.json")
