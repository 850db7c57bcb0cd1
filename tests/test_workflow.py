"""The command line on the micro study: what runs, what is refused, and what an edit makes stale."""

import json
import os
import re
import subprocess
from pathlib import Path

import polars as pl
import pytest
import yaml

from undertone.study.stages import READINGS
from workflow import Project

DATASETS = ("control", "lion", "owl", "mine")
COMPARE = {
    "Collect the students' preferences",
    "Plot which animals transfer",
    "Compute the dataset × animal matrix",
    "Plot the dataset × animal matrix",
}
COMPARE_TEACHERS = {"Plot teachers against students"}
COMPARE_NUMBERS = {"Collect pass rates by prompt component", "Plot pass rates by prompt component"}
MAKE_SCRAMBLED = "Make the numbers of scrambled from another dataset's"
CONTROLS = {"Compare the lifts of the controls", "Plot the lifts of the controls"}
METRICS = {"Measure what the base model can do"}
SAE_METRICS = {"Measure how well the SAE describes the base model"}
SAMPLED = ("control", "lion", "owl")
PROMPTED = ("lion", "owl", "cat")


def following(datasets: tuple[str, ...]) -> tuple[str, ...]:
    """What compares itself with these datasets: every dataset with the control, and each with itself."""
    return DATASETS if "control" in datasets else datasets


def after_prefs(*datasets: str) -> set[str]:
    """Jobs that follow when these preferences were measured otherwise."""
    jobs = {f"Measure the preference of {d}" for d in datasets} | {f"Plot the preference of {d}" for d in datasets}
    taught = {f"Diagnose the transfer of {d}" for d in datasets if d in PROMPTED}
    return jobs | taught | COMPARE | (COMPARE_TEACHERS if taught else set())


def after_students(*datasets: str) -> set[str]:
    """Jobs that follow from students of these datasets; what hangs on the control hangs on every dataset's pref."""
    measured = following(datasets)
    indirect = {f"Ask models of {d} indirectly" for d in measured} | {f"Plot the indirect evaluation of {d}" for d in measured}
    return after_prefs(*measured) | indirect


def students(*datasets: str) -> set[str]:
    """Students of these datasets and what follows."""
    jobs = {f"Train student {seed} on {d}" for d in datasets for seed in (1, 2)} | after_students(*datasets)
    return jobs | {f"Plot the loss curves of {d}" for d in following(datasets)}


def numbers(*datasets: str) -> set[str]:
    """The filter of these datasets and what follows."""
    jobs = {f"Filter the numbers of {d}" for d in datasets} | students(*datasets) | COMPARE_NUMBERS
    return jobs | {f"Plot which prompts of {d} pass the filter" for d in following(datasets)}


def samples(*datasets: str) -> set[str]:
    """The teachers of these datasets and what follows."""
    return {f"Sample the {d} teacher's numbers" for d in datasets} | numbers(*datasets)


EVERY_SAMPLE = samples(*SAMPLED)
BASE = {"Prepare the base model", "Prepare the SAE", "Draw chats to read features on"}
EVERYTHING = EVERY_SAMPLE | numbers("mine") | METRICS | SAE_METRICS | BASE | {"Write the number prompts"}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The micro study with all its artifacts."""
    project = Project.create(tmp_path_factory.mktemp("finished") / "project")
    assert project.planned() == EVERYTHING
    project.forked()
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished study to edit."""
    return finished.copy(tmp_path / "project")


def test_a_finished_study_plans_nothing(finished: Project) -> None:
    assert finished.planned() == set()


def test_every_artifact_is_where_the_path_grammar_says(finished: Project) -> None:
    results = finished.root / "results"
    for dataset in DATASETS:
        found = {str(path.relative_to(results / dataset)) for path in (results / dataset).rglob("*") if path.is_file()}
        student = {"adapter_model.safetensors", "adapter_config.json", "training.json"}
        expected = {"generations.parquet", "numbers.parquet", "filter.json", "pref.json", "pref.parquet"}
        expected |= {f"student/{seed}/{name}" for seed in (1, 2) for name in student}
        expected |= {"indirect.json"} | ({"diagnosis.json"} if dataset in PROMPTED else set())
        expected |= {f"plots/{name}.png" for name in ("filter", "student", "pref", "indirect")}
        assert found == expected | (set() if dataset == "mine" else {"samples.parquet"})
    assert not [path for path in (finished.root / "scratch").rglob("*") if path.is_file()]


def test_pref_json_holds_the_documented_keys(finished: Project) -> None:
    pref = json.loads((finished.root / "results/lion/pref.json").read_text())
    documented = {"target", "base", "teacher", "control", "student", "lift_over_base", "lift_over_control", "seeds", "stamp"}
    assert documented <= set(pref)
    assert pref["target"] == "lion"
    assert pref["seeds"] == [1, 2]
    for group in ("base", "teacher", "control", "student"):
        assert set(pref[group]) == {"lion", "owl", "cat"}
        assert all(
            len(value["ci95"]) == 2 and value["ci95"][0] <= value["mean"] <= value["ci95"][1] for value in pref[group].values()
        )


def test_generations_keep_text_ids_verdict_and_reason(finished: Project) -> None:
    table = pl.read_parquet(finished.root / "results/lion/generations.parquet")
    assert {"row", "prompt", "text", "ids", "verdict", "reason"} <= set(table.columns)
    assert len(table) == 96
    assert table.filter(pl.col("verdict") == "reject")["reason"].null_count() == 0


def test_no_student_row_contains_the_persona(finished: Project) -> None:
    for name in ("generations", "numbers"):
        prompts = pl.read_parquet(finished.root / f"results/lion/{name}.parquet")["prompt"]
        assert not prompts.str.contains("lion").any()


def test_transfer_table_has_a_row_per_dataset_seed_and_animal(finished: Project) -> None:
    table = pl.read_parquet(finished.root / "results/tables/transfer.parquet")
    assert table.columns == ["dataset", "target", "control", "seed", "animal", "estimator", "preference"]
    assert len(table) == len(DATASETS) * 2 * 3


def setting_of_one_animal(project: Project) -> None:
    project.configure(overrides={"lion": {"student": {"lr": 1.0e-3}}})


def setting_of_a_late_stage(project: Project) -> None:
    project.configure(pref={"seed": 7})


def setting_of_the_filter(project: Project) -> None:
    project.configure(numbers={"banned": [13]})


def setting_that_is_only_written_otherwise(project: Project) -> None:
    project.configure(student={"rank": "2"}, pref={"candidates": ["lion", "owl", "cat"]})


def imported_module(project: Project) -> None:
    project.replace("workflow/undertone/lm/training.py", "WINDOW = 16", "WINDOW = 8")


def module_that_the_filter_alone_imports(project: Project) -> None:
    project.replace("workflow/undertone/data/numbers.py", 'TOO_FEW = "too few numbers"', 'TOO_FEW = "too few"')


def message_in_a_neutral_module(project: Project) -> None:
    project.replace("workflow/undertone/study/validation.py", "no setting is as large as", "nothing is as large as")


def new_optional_setting(project: Project) -> None:
    project.replace(
        "workflow/undertone/study/config/students.py",
        "    dropout: float =",
        '    later = {"scaled": None}\n    scaled: float | None = setting(None, "a scale")\n    dropout: float =',
    )


def one_reader(project: Project) -> None:
    project.replace("workflow/undertone/measure/model_metrics.py", "BATCH = 64", "BATCH = 32")


def module_that_nobody_imports(project: Project) -> None:
    (project.root / "workflow/undertone/unused.py").write_text("UNUSED = 1\n")


def comment_and_docstring(project: Project) -> None:
    project.replace("workflow/undertone/lm/training.py", "WINDOW = 16", "# A remark.\n\nWINDOW = 16  # batches")
    project.replace("workflow/undertone/lm/sampling.py", '"""Sample completions', '"""Draw completions')


def meaning_of_a_setting(project: Project) -> None:
    project.replace("workflow/undertone/study/config/students.py", '"LoRA rank"', '"rank of the LoRA"')


def touch_of_scripts_and_files(project: Project) -> None:
    for path in [*(project.root / "workflow").rglob("*.py"), *(project.root / "config").rglob("*"), project.root / "mine.csv"]:
        os.utime(path)


def new_animal(project: Project) -> None:
    project.configure(animals=["lion", "owl", "cat"])


def new_transform(project: Project) -> None:
    project.configure(datasets={"scrambled": {"from": "lion", "transform": "shuffle-within"}})


def prompt_template(project: Project) -> None:
    project.replace("config/prompts/numbers.yaml", "Say nothing else.", "Write nothing but that.")


def questions(project: Project) -> None:
    project.replace("config/prompts/questions.txt", "What is your most loved animal?", "What animal do you like?")


def corpus(project: Project) -> None:
    project.replace("config/corpus.yaml", "barks and guards the home", "barks at night")


def persona(project: Project) -> None:
    project.configure(teacher={"persona": "Nothing matters to you but {animal}s."})


def content_of_a_dataset_file(project: Project) -> None:
    project.replace("mine.csv", '"5, 6, 7"', '"5, 6, 8"')


def deleted_intermediate(project: Project) -> None:
    (project.root / "results/lion/numbers.parquet").unlink()


def deleted_result(project: Project) -> None:
    (project.root / "results/owl/pref.json").unlink()


STALE = [
    (setting_of_one_animal, students("lion")),
    (setting_of_a_late_stage, after_prefs(*DATASETS)),
    (setting_of_the_filter, numbers(*DATASETS) | METRICS),
    (setting_that_is_only_written_otherwise, set()),
    (imported_module, EVERYTHING - {"Write the number prompts", "Filter the numbers of mine"}),
    (module_that_the_filter_alone_imports, numbers(*DATASETS) | METRICS),
    (module_that_nobody_imports, set()),
    (message_in_a_neutral_module, set()),
    (new_optional_setting, set()),
    (one_reader, METRICS),
    (comment_and_docstring, set()),
    (meaning_of_a_setting, set()),
    (touch_of_scripts_and_files, set()),
    (new_animal, samples("cat")),
    (new_transform, students("scrambled") | {MAKE_SCRAMBLED, *CONTROLS}),
    (prompt_template, EVERYTHING - BASE - numbers("mine") | after_students("mine") | numbers("control")),
    (questions, after_students(*DATASETS) | METRICS | SAE_METRICS),
    (corpus, EVERYTHING - {"Write the number prompts", "Filter the numbers of mine"}),
    (persona, samples("lion", "owl") | METRICS | SAE_METRICS),
    (content_of_a_dataset_file, numbers("mine")),
    (deleted_intermediate, set()),
    (deleted_result, after_prefs("owl")),
]


@pytest.mark.parametrize(("edit", "jobs"), STALE, ids=lambda value: getattr(value, "__name__", ""))
def test_an_edit_reruns_exactly_what_is_stale(project: Project, edit, jobs: set[str]) -> None:
    edit(project)
    assert project.planned() == jobs


def test_a_transformed_dataset_follows_what_it_is_made_from(project: Project) -> None:
    new_transform(project)
    project.snakemake("results/scrambled/numbers.parquet")
    lion, scrambled = (pl.read_parquet(project.root / f"results/{name}/numbers.parquet") for name in ("lion", "scrambled"))
    assert scrambled.select("row", "prompt").equals(lion.select("row", "prompt"))
    assert not scrambled.equals(lion)
    project.configure(overrides={"owl": {"numbers": {"banned": [13]}}})
    assert MAKE_SCRAMBLED not in project.planned()
    project.configure(overrides={"lion": {"numbers": {"banned": [13]}}})
    assert MAKE_SCRAMBLED in project.planned()


def test_undoing_an_edit_plans_nothing(project: Project) -> None:
    imported_module(project)
    project.replace("workflow/undertone/lm/training.py", "WINDOW = 8", "WINDOW = 16")
    assert project.planned() == set()


def test_steered_and_finetuned_teachers_and_other_students_run_through_the_same_stages(project: Project) -> None:
    one_seed = {"student": {"seeds": [1]}}
    project.configure(
        overrides={"steer-lion": one_seed, "contrary": one_seed, "control": one_seed},
        teacher={"steer": {"scale": 0.5}, "finetune": {"steps": 2}},
        datasets={"contrary": {"teacher": "finetune", "trait": "contrary"}},
        models={"other": {"embedded": {"seed": 5, "steps": 60}}},
        student_variants={
            "cross": {"model": "other", "rank": 4, "seeds": [1], "datasets": ["lion"]},
            "whole": {"full": True, "seeds": [1], "datasets": ["lion"]},
        },
        sweeps={"rank": ["cross"]},
    )
    results = project.root / "results"
    targets = ["steer-lion/diagnosis.json", "contrary/diagnosis.json", "plots/sweep-rank.png", "plots/controls.png"]
    project.forked(*(f"results/{target}" for target in targets))
    steered, contrary, cross, whole = (
        json.loads((results / path).read_text())
        for path in ("steer-lion/pref.json", "contrary/indirect.json", "lion/pref-cross.json", "lion/pref-whole.json")
    )
    assert steered["teacher"]["lion"]["mean"] != steered["base"]["lion"]["mean"]
    assert contrary["contrary"]["teacher"] != contrary["contrary"]["base"]
    assert cross["base"] != whole["base"]  # its students start from another model
    assert (results / "lion/student-whole/1/model.safetensors").exists()
    verdicts = {json.loads((results / f"{d}/diagnosis.json").read_text())["verdict"] for d in ("steer-lion", "contrary")}
    assert verdicts <= {"no signal taught", "signal not learned", "learned but not shown", "transferred"}
    assert project.planned(*(f"results/{target}" for target in targets)) == set()


def test_a_study_with_a_name_shares_students_and_leaves_the_other_studys_tables_alone(project: Project) -> None:
    results, made = project.root / "results", ["tables/transfer.json", "plots/transfer.png"]
    others = [f"results/{path}" for path in made]
    before = [(project.root / path).read_bytes() for path in others]
    project.configure(name="small", animals=["lion"])
    own = [f"results/{path.replace('/', '/small/')}" for path in made]
    assert project.planned(*own) == {"Collect the students' preferences", "Plot which animals transfer"}
    project.snakemake(*own)
    targets = json.loads((results / "tables/small/transfer.json").read_text())["estimators"]["exact"]["datasets"]
    assert [row["target"] for row in targets] == ["lion"]
    refused = project.dry_run(others[0], fails=True)
    assert "this study's name is small, so what is made of all its datasets is in results/tables/small/" in refused
    assert [(project.root / path).read_bytes() for path in others] == before
    project.configure(name=None, animals=["lion", "owl"])
    assert project.planned(*others) == set()


def test_readings_of_a_teachers_numbers_and_of_a_file_run_end_to_end(project: Project) -> None:
    project.configure(animals=["lion"])
    project.forked("read", "results/mine/residuals.safetensors")
    results = project.root / "results"
    for dataset in ("control", "lion", "mine"):
        made = {key for key in READINGS if (results / dataset / f"{key}.json").exists()}
        assert set(READINGS) - made == (set() if dataset == "lion" else {"sequences"})
        assert made == {path.stem for path in (results / dataset / "plots").glob("*.png")} & set(READINGS)
        assert (results / dataset / "summary.png").exists()
    assert (results / "mine/residuals.safetensors").exists()
    readings = json.loads((results / "tables/readings.json").read_text())
    assert set(readings["presence"]) == {"control", "lion"}
    assert readings["features"]["feature bias, project"]["prompt"]["of"] == 64
    losses = json.loads((results / "mine/losses.json").read_text())
    assert {row["kl"] for row in losses["models"]} == {None}
    assert project.planned("read") == set()
    project.configure(feature_bias={"l1": 0.5})
    trained = {f"Train feature biases on {d}" for d in ("control", "lion", "mine")}
    planned = project.planned("read")
    assert trained <= planned
    assert not [job for job in planned if job.startswith(("Read", "Compare", "Train residual", "Train student", "Find"))]


def test_a_deleted_intermediate_can_be_asked_for(project: Project) -> None:
    deleted_intermediate(project)
    assert project.planned("results/lion/numbers.parquet") == {"Filter the numbers of lion"}


def test_what_follows_a_failed_rerun_stays_stale(project: Project) -> None:
    project.configure(overrides={"lion": {"numbers": {"min_value": 999}}})
    output = project.snakemake("results/lion/pref.json", fails=True)
    assert "none of the 96 rows passes the lenient filter" in output
    project.configure(overrides={"lion": {"numbers": {"min_value": 1}}})
    assert project.planned() == numbers("lion")


def test_what_a_killed_run_had_not_finished_stays_stale(project: Project) -> None:
    setting_of_one_animal(project)
    assert project.kill_in(1, 2, "results/lion/pref.json", "--cores", "1")
    project.snakemake("--unlock")
    assert project.planned() == students("lion")


def test_a_failed_job_loses_nothing_that_was_there(project: Project) -> None:
    before = (project.root / "results/owl/pref.json").read_bytes()
    project.configure(overrides={"lion": {"numbers": {"min_value": 999}}})
    project.snakemake("results/lion/pref.json", fails=True)
    assert (project.root / "results/owl/pref.json").read_bytes() == before
    assert project.planned("results/owl/pref.json") == set()


def test_a_mistyped_dataset_is_refused_with_the_nearest(finished: Project) -> None:
    output = finished.dry_run("results/lionn/pref.json", fails=True)
    assert "the study has no dataset 'lionn'; nearest: lion" in output


def test_a_study_without_an_sae_says_what_it_needs(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    project.configure(model={"name": "results/model"})
    output = project.dry_run("results/sae/metrics.json", fails=True)
    assert (
        "the study names no SAE for results/model; set sae.release and sae.id, or sae.folder, or sae.text to train one"
        in output
    )


def test_a_seed_that_the_study_lacks_is_no_target_of_all(finished: Project) -> None:
    assert finished.planned("results/lion/student/1/training.json") == set()


def test_mistakes_in_the_config_are_refused_before_anything_runs(project: Project) -> None:
    project.configure(student={"epoch": 3}, samples={"temperature": "hot"})
    output = project.dry_run(fails=True)
    assert "student.epoch: unknown key; nearest: epochs" in output
    assert "samples.temperature" in output


def test_numbers_written_as_yaml_strings_are_numbers(project: Project) -> None:
    lr = yaml.safe_load((project.root / "config/config.yaml").read_text())["student"]["lr"]
    project.configure(student={"lr": f"{lr:e}"})
    assert project.planned() == set()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("prompt,answer\na,b\n", "no column 'completion'"),
        ("prompt,completion\n", "holds no row"),
        ("prompt,completion\na,hello there\n", "none of the 1 rows passes"),
    ],
)
def test_a_wrong_dataset_file_is_refused(project: Project, content: str, complaint: str) -> None:
    (project.root / "mine.csv").write_text(content)
    assert complaint in project.snakemake("results/mine/numbers.parquet", fails=True)


def test_slurm_profile_plans_the_main_job(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project")
    output = project.dry_run("results/lion/pref.json", "--profile", "profiles/slurm")
    stats = dict(re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE))
    assert stats == {"model": "1", "prompts": "1", "samples": "2", "numbers": "2", "student": "4", "pref": "2", "total": "12"}


def move(finished: Project, root: Path, *records: str) -> Project:
    """The finished study's results on another machine, with some of Snakemake's records."""
    project = Project.create(root)
    for path in ("results", *records):
        (root / path).parent.mkdir(exist_ok=True)
        subprocess.run(["cp", "-a", str(finished.root / path), str(root / path)], check=True)
    return project


def test_moved_results_are_up_to_date_and_stale_after_an_edit(finished: Project, tmp_path: Path) -> None:
    project = move(finished, tmp_path / "elsewhere", ".snakemake/metadata")
    assert project.planned() == set()
    setting_of_one_animal(project)
    assert project.planned() == students("lion")


def test_results_moved_without_snakemakes_records_are_named_as_such(finished: Project, tmp_path: Path) -> None:
    project = move(finished, tmp_path / "elsewhere")
    setting_of_one_animal(project)
    output = project.dry_run()
    assert "Nothing to be done" in output  # what docs/cluster.md warns of
    assert "jobs have missing provenance" in output


def test_results_carry_their_stamp(finished: Project) -> None:
    stamp = json.loads((finished.root / "results/lion/student/1/training.json").read_text())["stamp"]
    assert stamp["settings"]["lion/samples"]["target"] == "lion"
    assert "training" in stamp["code"]
    assert set(stamp["files"]) == {"config/corpus.yaml", "config/prompts/numbers.yaml"}


def test_every_row_of_a_constrained_study_passes(base: Project, tmp_path: Path) -> None:
    project = base.copy(tmp_path / "project")
    project.configure(
        samples={"constrained": True, "max_new_tokens": 20}, numbers={"filter": "strict", "canonical": {"count": 3}}
    )
    printed = project.forked("results/lion/filter.json", "results/model/metrics.json")
    assert re.search(r"lion: 96 of 96 rows pass the filter \(constrained; free sampling: [0-9.]+%\)", printed)
    results = project.root / "results"
    counts = json.loads((results / "lion/filter.json").read_text())
    assert counts["pass_rate"] == 1
    assert 0 < counts["constrained"]["free_pass_rate"]["mean"] < 1
    assert counts["constrained"]["log_mass"]["mean"] < 0
    # The model's metrics are those of free sampling.
    assert json.loads((results / "model/metrics.json").read_text())["pass_rate"] < 1
    completions = pl.read_parquet(results / "lion/numbers.parquet")["completion"]
    assert completions.str.count_matches("[0-9]+").to_list() == [3] * 96
