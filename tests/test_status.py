"""The table of what is present, stale and missing, from Snakemake's summary."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from undertone.study.status import read_summary, status
from workflow import Project

HEADER = "output_file\tdate\trule\tlog-file(s)\tstatus\tplan"
OK, GONE = ("ok", "no update"), ("missing", "update pending")
FILES = [
    ("model/model.json", "model", *OK),
    ("model-other/model.json", "model", *OK),
    ("prompts.parquet", "prompts", *OK),
    ("tables/transfer.parquet", "transfer", *GONE),
    ("steer-lion/teacher.json", "steer", *OK),
    ("control/pref.json", "pref", *OK),
    ("control/plots/pref.png", "pref_plot", *GONE),
    ("lion/student/1/training.json", "student", "params changed", "update pending"),
    ("lion/pref.json", "pref", "ok", "update pending"),
    ("lion/numbers.parquet", "numbers", "missing", "no update"),
]


def lines(files, root="results"):
    return [HEADER, *("\t".join((f"{root}/{path}", "-", rule, "-", state, plan)) for path, rule, state, plan in files)]


def rows(text, title):
    """The numbers of one of the tables, by name."""
    (part,) = (part for part in text.split("\n\n") if part.startswith(title))
    header, *found = (line.split() for line in part.splitlines())
    assert header == [title, "present", "stale", "missing"]
    return {name: tuple(map(int, numbers)) for name, *numbers in found}


@pytest.mark.parametrize("root", ["results", "results/gemma-2b-it", "/data/my study"])
def test_files_are_counted_by_dataset_and_by_rule(root):
    text = status(read_summary(lines(FILES, root)))
    datasets = rows(text, "dataset")
    assert datasets == {
        "study": (3, 0, 1),
        "control": (1, 0, 1),
        "lion": (0, 2, 1),
        "steer-lion": (1, 0, 0),
        "total": (5, 2, 3),
    }
    assert list(datasets) == ["study", "control", "lion", "steer-lion", "total"]
    rules = rows(text, "rule")
    assert rules["pref"] == (1, 1, 0)
    assert rules["student"] == (0, 1, 0)
    assert rules["total"] == datasets["total"]


def test_a_study_elsewhere_and_one_of_two_configs_have_a_command_that_works():
    elsewhere = status(read_summary(lines(FILES, "/data/my study")), "config/x.yaml")
    assert "Next: snakemake '/data/my study/lion/pref.json' --configfile config/x.yaml\n" in elsewhere
    two = status(read_summary(lines(FILES)), "config/x.yaml config/y.yaml")
    assert 'Next: make results/lion/pref.json CONFIG="config/x.yaml config/y.yaml"\n' in two


@pytest.mark.parametrize(("config", "study"), [("", ""), ("config/x.yaml", " CONFIG=config/x.yaml")])
def test_the_next_step_is_the_preference_of_the_dataset_that_is_nearest_to_it(config, study):
    files = [*FILES, ("owl/numbers.parquet", "numbers", *OK), ("owl/pref.json", "pref", *GONE)]
    *_, step, rest = status(read_summary(lines(files)), config).splitlines()
    assert step == f"Next: make results/owl/pref.json{study}"  # of lion's files none is present
    assert rest == f"Then: make all read{study}   (5 files)"


@pytest.mark.parametrize(
    ("pending", "step"),
    [
        ([("control/pref.json", "pref", *GONE)], "Next: make results/control/pref.json"),
        ([("lion/summary.png", "summary_plot", *GONE)], "Next: make all read   (1 file)"),
        ([], "Nothing is pending. See it on one page: make report"),
    ],
)
def test_without_a_pending_preference_the_rest_is_next(pending, step):
    files = [("lion/pref.json", "pref", *OK), *pending]
    assert step in status(read_summary(lines(files))).splitlines()


def test_what_is_printed_before_the_summary_does_not_matter():
    assert status(read_summary(["Building DAG of jobs...", *lines(FILES)])) == status(read_summary(lines(FILES)))


def test_without_a_summary_the_error_says_what_to_run():
    script = [sys.executable, "-m", "undertone.study.status"]
    done = subprocess.run(script, input="Error: no rule\n", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Snakemake gave no summary: what it printed above says why. By hand: make status\n"


def test_a_file_that_is_missing_and_not_needed_is_none_to_make():
    """Snakemake does not make again what only finished results were made from."""
    rows_ = [
        {"output_file": f"results/{name}", "rule": "rule", "status": state_, "plan": "no update"}
        for name, state_ in (("lion/samples.parquet", "missing"), ("lion/pref.json", "ok"), ("model-lion/pref.json", "ok"))
    ]
    assert status(rows_).endswith("Nothing is pending. See it on one page: make report")


def test_a_dataset_whose_name_begins_as_a_models_is_no_error():
    row = {"rule": "pref", "status": "missing", "plan": "update pending"}
    files = [row | {"output_file": f"results/{name}"} for name in ("model-lion/pref.json", "prompts.parquet")]
    assert "Next: make results/model-lion/pref.json" in status(files)


def test_a_study_is_missing_then_present_then_stale(tmp_path: Path):
    project = Project.create(tmp_path / "project")

    def prompts() -> tuple[int, ...]:
        return rows(status(read_summary(project.snakemake("all", "read", "--summary").splitlines())), "rule")["prompts"]

    assert prompts() == (0, 0, 1)
    project.snakemake("results/prompts.parquet")
    assert prompts() == (1, 0, 0)
    project.configure(prompts={"seed": 7})
    assert prompts() == (0, 1, 0)


def made(*arguments):
    """The commands that make would run, one a line."""
    printed = subprocess.run(
        ["make", "--dry-run", "--assume-old=.venv/.ready", *arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return re.sub(r" +", " ", re.sub(r" *$", "", printed, flags=re.MULTILINE))


@pytest.mark.parametrize(("config", "study"), [([], ""), (["CONFIG=config/x.yaml"], " --configfile config/x.yaml")])
def test_make_asks_snakemake_for_the_study_that_is_named(config, study):
    assert f"bin/snakemake all read --summary{study} | " in made("status", *config)
    assert re.search(r"\| \S+/python -m undertone.study.status( config/x.yaml)?$", made("status", *config), re.MULTILINE)
    assert f"bin/snakemake all read --report report.html{study}\n" in made("report", *config)
    for target in ("all", "read", "results/lion/pref.json"):
        assert f"bin/snakemake {target}{study}\n" in made(target, *config)


@pytest.mark.parametrize(
    ("config", "root"), [([], "results"), (["config/second.yaml"], "results/second"), (["config/forms.yaml"], "results")]
)
def test_a_verdict_is_asked_for_where_the_studys_results_are(config, root):
    """make asks this module, so that a file is judged by the nulls of the study that CONFIG names."""
    script = [sys.executable, "-m", "undertone.study.root", *config]
    done = subprocess.run(script, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    assert done.stdout == f"{root}\n"
    named = [f"CONFIG={' '.join(config)}"] if config else []
    printed = made("verdict", "FILE=data/mine.jsonl", *named)
    assert "undertone.study.root" in printed
    assert "/mine/verdict.html" in printed
    assert """--config 'datasets={"mine": {file: "data/mine.jsonl"}}'""" in printed
    assert '"numbers": {file: "data/my list.csv"}' in made("verdict", "FILE=data/my list.csv", "NAME=numbers")


def test_help_names_every_target_that_a_user_asks_for():
    named = made("help")
    assert all(f"make {target} " in named for target in ("all", "read", "status", "report", "test", "setup"))
    assert "CONFIG=" in named
