"""A stage's function gets what its rule names, by name and as its annotations say, or the job is refused."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from example import study
from snakemake.iocontainers import Namedlist

from undertone.study.arguments import SECTIONS, BindingError, bind
from undertone.study.config.entries import Transformed
from undertone.study.config.measure import Pref
from undertone.study.config.students import Student
from undertone.study.job import run
from undertone.study.study import Study
from undertone.study.validation import Section

FILES = {
    "numbers": "results/lion/numbers.parquet",
    "control": [],
    "prefs": ["results/owl/pref.json", "results/lion/pref.json"],
    "students": [f"results/lion/student/{seed}/adapter_model.safetensors" for seed in (2, 1)],
}


def bound(function: Callable[..., Any], files: dict[str, Any] = FILES, **settings: Any) -> dict[str, Any]:
    return bind(function, files, settings, {"stamp": lambda: {"of": "it"}, "scratch": lambda: pytest.fail("nobody wants it")})


def test_files_become_what_the_annotations_say() -> None:
    def stage(
        students: dict[int, Path], prefs: dict[str, Path], control: Path | None, numbers: Path, stamp: dict[str, Any]
    ) -> None: ...

    lion = Path("results/lion")
    assert bound(stage) == {
        "students": {2: lion / "student/2", 1: lion / "student/1"},
        "prefs": {"owl": Path("results/owl/pref.json"), "lion": lion / "pref.json"},
        "control": None,
        "numbers": lion / "numbers.parquet",
        "stamp": {"of": "it"},
    }


def test_a_list_keeps_the_order_of_the_rule_and_one_file_makes_a_list_of_one() -> None:
    def stage(prefs: Sequence[Path], numbers: Sequence[Path]) -> None: ...

    files = {name: FILES[name] for name in ("prefs", "numbers")}
    assert bound(stage, files) == {"prefs": [Path(path) for path in FILES["prefs"]], "numbers": [Path(FILES["numbers"])]}


def test_the_rest_goes_to_a_function_that_takes_any_name() -> None:
    def stage(numbers: Path, **others: Path | None) -> None: ...

    files = {"numbers": "n", "score": "s", "control_score": []}
    assert bound(stage, files) == {"numbers": Path("n"), "score": Path("s"), "control_score": None}


def test_sections_are_validated_whatever_their_parameter_is_called_and_values_taken_by_name() -> None:
    def stage(settings: Student, numbers: Path, transform: Transformed, target: str | None) -> None: ...

    settings = {"student": {"rank": 2}, "dataset": {"from": "lion", "transform": "reverse"}, "target": None}
    arguments = bound(stage, {"numbers": "n"}, **settings)
    assert (arguments["settings"].rank, arguments["transform"].transform, arguments["target"]) == (2, "reverse", None)
    with pytest.raises(ValueError, match="rank"):
        bound(stage, {"numbers": "n"}, **{**settings, "student": {"rank": 0}})


def test_every_section_of_a_study_is_known_by_its_class() -> None:
    assert SECTIONS[Pref] == "pref"
    sections = {name for name in Study.model_fields if isinstance(getattr(study(), name), Section)}
    assert set(SECTIONS.values()) == {"dataset", *sections}


def takes_one(numbers: Path) -> None: ...


def takes_another(numbers: Path, contorl: Path | None, prefs: Sequence[Path], students: dict[int, Path]) -> None: ...


def takes_a_text(numbers: str) -> None: ...


@pytest.mark.parametrize(
    ("function", "files", "message"),
    [
        (takes_one, FILES, "takes_one takes no 'control', which its rule names; known: numbers"),
        (takes_another, FILES, "takes 'contorl', which its rule does not offer; nearest: control"),
        (takes_one, {"numbers": ["a", "b"]}, "'numbers' is 2 files, expected one"),
        (takes_one, {"numbers": []}, "'numbers' is 0 files, expected one"),
        (takes_a_text, {"numbers": "a"}, "'numbers' is annotated <class 'str'>"),
    ],
)
def test_what_does_not_fit_is_refused(function: Callable[..., Any], files: dict[str, Any], message: str) -> None:
    with pytest.raises(BindingError, match=message.replace("(", r"\(")):
        bound(function, files)


def job(tmp_path: Path, rule: str, inputs: dict[str, Any], outputs: dict[str, Any], **wildcards: str) -> Any:
    (tmp_path / "logs/score").mkdir(parents=True)
    key = "/".join([wildcards["dataset"], rule]) if "dataset" in wildcards else rule
    return SimpleNamespace(
        rule=rule,
        log=[str(tmp_path / "logs/score/lion.log")],
        input=Namedlist(fromdict=inputs),
        output=Namedlist(fromdict=outputs),
        wildcards=Namedlist(fromdict=wildcards),
        params=SimpleNamespace(stamp={"settings": {key: {"student": {"rank": 2}, "against": "control"}}}),
    )


def test_a_job_has_its_settings_stamp_wildcards_scratch_and_benchmarks(tmp_path: Path) -> None:
    told: dict[str, Any] = {}

    def stage(
        numbers: Path,
        weights: Path,
        seed: int,
        dataset: str,
        against: str,
        settings: dict[str, Any],
        stamp: dict[str, Any],
        scratch: Path,
        benchmarks: Path,
    ) -> str:
        told.update(locals())
        return "what to say"

    made = str(tmp_path / "lion/weights")
    snakemake = job(tmp_path, "student", {"numbers": "n"}, {"weights": made}, dataset="lion", seed="7")
    run(stage, snakemake)
    assert (told["numbers"], told["weights"], told["seed"], told["dataset"]) == (Path("n"), Path(made), 7, "lion")
    assert told["settings"] == {"student": {"rank": 2}, "against": told["against"]}
    assert told["stamp"] == snakemake.params.stamp
    assert told["scratch"].is_dir() and told["scratch"].is_relative_to(tmp_path / "scratch/lion/weights")
    assert told["benchmarks"] == tmp_path / "benchmarks"
    assert (tmp_path / "logs/score/lion.log").read_text().splitlines()[1:] == ["what to say"]


def test_a_stage_may_have_no_settings(tmp_path: Path) -> None:
    told = []

    def stage(numbers: Path, settings: dict[str, Any]) -> None:
        told.append(settings)

    snakemake = job(tmp_path, "costs", {"numbers": "n"}, {})
    snakemake.params.stamp["settings"].clear()
    run(stage, snakemake)
    assert told == [{}]


def test_a_name_of_both_an_input_and_an_output_is_refused_and_the_log_says_so(tmp_path: Path) -> None:
    snakemake = job(tmp_path, "student", {"numbers": "a"}, {"numbers": "b"}, dataset="lion")
    with pytest.raises(BindingError, match="rule student names an input and an output 'numbers'"):
        run(takes_one, snakemake)
    assert "Failed: " in (tmp_path / "logs/score/lion.log").read_text()
