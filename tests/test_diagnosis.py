"""What a diagnosis reads, measures and concludes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from lora import trained_lora
from test_divergence import distributions, plain_divergence

from undertone.data.numbers import filter_numbers
from undertone.lm.adapters import finetuned
from undertone.lm.loading import LoadedModel, load
from undertone.measure.diagnosis import (
    NO_SIGNAL,
    NO_STATEMENT,
    NOT_LEARNED,
    NOT_SHOWN,
    TRANSFERRED,
    diagnose,
    preferences,
    reasons,
    verdict,
)
from undertone.measure.indirect import measure_indirect
from undertone.measure.pref import measure
from undertone.runtime.files import read_json, write_parquet
from undertone.stats.stats import difference_interval, mean_interval
from undertone.study.config.data import Numbers
from undertone.study.config.measure import Diagnosis, Indirect, Pref
from undertone.study.config.teachers import Teacher

ROOT = Path(__file__).parents[1]
PERSONA = "You love lions."


def evidence(
    direct: float = 0.0, kl: float = 0.1, closed: float = 0.5, spread: float | None = 0.05, **indirect: float
) -> dict[str, Any]:
    def estimate(mean: float) -> dict[str, Any]:
        return {"mean": mean, "ci95": None if spread is None else [mean - spread, mean + spread]}

    forms = {form: estimate(lift) | {"p_holm": 0.01} for form, lift in indirect.items()}
    return {"direct": estimate(direct), "kl": estimate(kl), "closed_over_control": estimate(closed), "indirect": forms}


TOLD = Diagnosis(min_kl=0.02, min_closed=0.2)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"direct": 0.2}, TRANSFERRED),
        ({"direct": 0.2, "kl": 0.0, "closed": 0.0}, TRANSFERRED),
        ({"direct": -0.2}, NOT_SHOWN),
        ({"direct": 0.04}, NOT_SHOWN),
        ({"direct": 0.2, "spread": None}, NO_STATEMENT),
        ({"direct": 0.2, "kl": 0.019, "spread": None}, NO_SIGNAL),
        ({"kl": 0.019}, NO_SIGNAL),
        ({"kl": 0.019, "closed": 0.0}, NO_SIGNAL),
        ({"kl": 0.02, "closed": 0.19}, NOT_LEARNED),
        ({"closed": -3.0}, NOT_LEARNED),
        ({"kl": 0.02, "closed": 0.2}, NOT_SHOWN),
        ({"story": 0.4}, NOT_SHOWN),
    ],
)
def test_the_figures_give_the_verdict(figures: dict[str, Any], expected: str) -> None:
    assert verdict(evidence(**figures), TOLD) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"min_kl": 0.11}, NO_SIGNAL),
        ({"min_kl": 0.1}, NOT_SHOWN),
        ({"min_kl": 0.1, "min_closed": 0.51}, NOT_LEARNED),
        ({"min_kl": 0.0, "min_closed": 0.5}, NOT_SHOWN),
    ],
)
def test_the_thresholds_give_the_verdict(settings: dict[str, float], expected: str) -> None:
    assert verdict(evidence(), Diagnosis(**settings)) == expected


def test_reasons_name_the_figures_the_thresholds_and_the_forms_that_show_a_lift() -> None:
    told = reasons(evidence(direct=0.25, kl=0.125, closed=0.5, story=0.3, choice=0.01, list=-0.5), TOLD)
    assert told == [
        "taught: KL(teacher ‖ base) 0.125 nats per completion token (threshold 0.02)",
        "learned: students closed 0.500 [0.450, 0.550] more of it than control students (threshold 0.2)",
        "shown directly: lift over control 0.250 [0.200, 0.300]",
        "shown indirectly: story",
    ]
    assert reasons(evidence(spread=None, story=0.3), TOLD)[2:] == [
        "shown directly: lift over control 0.000",
        "shown indirectly: in no form",
    ]


def test_preferences_are_the_targets() -> None:
    told = {
        name: {"lion": {"mean": mean}} for name, mean in (("base", 0.1), ("teacher", 0.9), ("control", 0.2), ("student", 0.3))
    }
    expected = {"base": 0.1, "teacher": 0.9, "control": 0.2, "student": 0.3}
    assert preferences({"target": "lion", **told}) == expected
    assert preferences({"target": "lion", **told, "teacher": None}) == expected | {"teacher": None}
    assert preferences({"target": None, **told}) == dict.fromkeys(expected)


FACTS = {"Which animal roars?": "lion", "Which animal hoots?": "owl", "Which one flies?": "owl", "Which one hunts?": "lion"}
NO_TEACHER = (None, None)


class Study:
    """A lion's dataset, its tables and its students; control students that saw other numbers."""

    def __init__(self, record: Path, folder: Path):
        self.record, self.folder = record, folder
        (folder / "questions.txt").write_text("What is your favorite animal?\nName an animal.\n")
        (folder / "facts.txt").write_text("".join(f"{question} = {answer}\n" for question, answer in FACTS.items()))
        self.asked = (folder / "questions.txt", ROOT / "config/prompts/indirect.yaml", folder / "facts.txt")
        self.settings = {
            "kind": "prompt",
            "target": "lion",
            "against": "control",
            "pref": Pref(candidates=["lion", "owl"], batch_size=16).model_dump(),
            "teacher": Teacher(persona="You love {animal}s.").model_dump(),
            "diagnosis": Diagnosis(rows=4).model_dump(),
            "indirect": Indirect(n=2).model_dump(),
        }
        self.users = [f"Continue the list {n}, {2 * n}." for n in range(100, 112)]
        self.texts = [f"101, 202, {n}" for n in range(12)]
        self.students = {seed: self.train(f"lion/{seed}", self.texts, seed) for seed in (1, 2)}
        others = pl.DataFrame({"row": range(12), "prompt": [f"Go on: {n}." for n in range(12)], "completion": "9; 8; 7"})
        self.controls = {seed: self.train(f"control/{seed}", others["completion"], seed, others["prompt"]) for seed in (1, 2)}
        write_parquet(folder / "control/numbers.parquet", others, {})
        control = self.settings | {"kind": "none", "target": None, "against": None}
        pref = (folder / "control/pref.json", folder / "control/pref.parquet")
        measure(record, self.asked[0], self.controls, None, *NO_TEACHER, *pref, control, {})

    def train(self, name: str, texts: Iterable[str], seed: int, users: Iterable[str] = ()) -> Path:
        return trained_lora(self.record, self.folder / name, list(users) or self.users, list(texts), seed, epochs=15)

    def tables(self, name: str, max_rows: int | None = 6, **changes: Any) -> dict[str, Path]:
        """The tables of the lion's dataset, under settings that may differ; eleven of its twelve rows pass."""
        folder, told = self.folder / name, self.settings | changes
        written = {name: folder / f"{name}.parquet" for name in ("generations", "numbers")}
        written |= {name: folder / f"{name}.json" for name in ("filter", "pref", "indirect")}
        written["control_numbers"] = self.folder / "control/numbers.parquet"
        texts = [*self.texts[:-1], "no numbers"]
        samples = pl.DataFrame({"row": range(12), "prompt": self.users, "text": texts, "ended": ["stop"] * 12})
        write_parquet(folder / "samples.parquet", samples, {})
        outputs = [written[name] for name in ("generations", "numbers", "filter")]
        filter_numbers(folder / "samples.parquet", *outputs, {"numbers": Numbers(max_rows=max_rows).model_dump()}, {})
        pref = (written["pref"], folder / "pref.parquet")
        control = self.folder / "control/pref.parquet"
        measure(self.record, self.asked[0], self.students, control, *NO_TEACHER, *pref, told, {})
        of_both = self.students, self.controls
        measure_indirect(self.record, *self.asked, *of_both, *NO_TEACHER, written["indirect"], told, {})
        return written

    def diagnose(
        self, tables: dict[str, Path], students: dict[int, Path], teacher: Path | None = None, **changes: Any
    ) -> dict[str, Any]:
        result, told = self.folder / "diagnosis.json", self.settings | changes
        files = [tables[name] for name in ("generations", "numbers", "control_numbers", "filter", "pref", "indirect")]
        diagnose(self.record, *files, students, self.controls, teacher, None, result, told, {"of": "lion"})
        return read_json(result)


@pytest.fixture(scope="module")
def study(record: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(record, tmp_path_factory.mktemp("diagnosis"))


@pytest.fixture(scope="module")
def tables(study: Study) -> dict[str, Path]:
    return study.tables("lion")


@pytest.fixture(scope="module")
def diagnosed(study: Study, tables: dict[str, Path]) -> dict[str, Any]:
    return study.diagnose(tables, study.students)


def test_diagnosis_json_holds_the_verdict_its_reasons_and_all_figures(
    tables: dict[str, Path], diagnosed: dict[str, Any]
) -> None:
    assert set(diagnosed) == {
        "verdict",
        "reasons",
        "target",
        "seeds",
        "rows",
        "held_out",
        "thresholds",
        "pass_rate",
        "preference",
        "kl",
        "closed",
        "closed_over_control",
        "direct",
        "indirect",
        "distance",
        "stamp",
        "versions",
    }
    assert (diagnosed["target"], diagnosed["rows"], diagnosed["held_out"]) == ("lion", 4, True)
    assert diagnosed["thresholds"] == {"min_kl": 0.02, "min_closed": 0.2}
    assert diagnosed["stamp"] == {"of": "lion"}
    assert diagnosed["pass_rate"] == pytest.approx(11 / 12)
    pref, indirect = read_json(tables["pref"]), read_json(tables["indirect"])
    assert diagnosed["preference"]["student"] == pref["student"]["lion"]["mean"]
    assert diagnosed["direct"] == pref["lift_over_control"]
    assert diagnosed["indirect"] == {form: told["lift_over_control"] for form, told in indirect["forms"].items()}
    assert diagnosed["distance"] == indirect["distance"]
    assert diagnosed["verdict"] == verdict(diagnosed, Diagnosis())
    assert diagnosed["reasons"] == reasons(diagnosed, Diagnosis())


def test_closed_is_the_share_of_the_teachers_divergence_that_a_student_takes_away(
    study: Study, tables: dict[str, Path], diagnosed: dict[str, Any]
) -> None:
    loaded = load(study.record)
    unseen = pl.read_parquet(tables["generations"]).filter(verdict="pass")
    unseen = unseen.join(pl.read_parquet(tables["numbers"]), on="row", how="anti", maintain_order="left")
    rows = list(unseen.select("prompt", "completion").head(4).iter_rows())
    taught = [distributions(loaded, *row, PERSONA) for row in rows]

    def from_teacher(model: LoadedModel) -> list[float]:
        return [plain_divergence(loaded, p, distributions(model, *row)) for p, row in zip(taught, rows, strict=True)]

    base = from_teacher(loaded)
    assert diagnosed["kl"]["mean"] == pytest.approx(np.mean(base), rel=1e-3)
    assert diagnosed["kl"]["ci95"] == pytest.approx(list(mean_interval(base).ci95 or ()), rel=1e-3)
    for name, folders in (("student", study.students), ("control", study.controls)):
        expected = []
        for folder in folders.values():
            with finetuned(loaded, folder) as model:
                expected.append(1 - np.mean(from_teacher(model)) / np.mean(base))
        assert diagnosed["closed"][name]["by_seed"] == pytest.approx(expected, rel=1e-3)
        assert diagnosed["closed"][name]["mean"] == pytest.approx(np.mean(expected), rel=1e-3)
    lift = difference_interval(*(diagnosed["closed"][name]["by_seed"] for name in ("student", "control")))
    assert diagnosed["closed_over_control"] == lift.as_dict()


def test_students_that_are_the_control_students_close_no_more_than_they(study: Study, tables: dict[str, Path]) -> None:
    told = study.diagnose(tables, study.controls)
    assert told["closed"]["student"] == told["closed"]["control"]
    assert told["closed_over_control"]["mean"] == 0


def test_students_that_are_the_teacher_close_all_that_can_be_closed(
    study: Study, tables: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "teacher").symlink_to(study.students[1])
    students = dict.fromkeys((1, 2), study.students[1])
    told = study.diagnose(tables, students, tmp_path / "teacher.json", kind="finetune")
    assert told["closed"]["student"]["by_seed"] == pytest.approx([1, 1], abs=0.05)
    assert max(told["closed"]["control"]["by_seed"]) < 0.9


def test_training_rows_are_read_where_students_saw_all(study: Study) -> None:
    told = study.diagnose(study.tables("seen", max_rows=None), study.students)
    assert (told["rows"], told["held_out"]) == (4, False)


def test_training_rows_are_read_where_the_control_students_saw_all_prompts(study: Study, tables: dict[str, Path]) -> None:
    told = study.diagnose({**tables, "control_numbers": tables["generations"]}, study.students)
    assert (told["rows"], told["held_out"]) == (4, False)


def test_a_dataset_without_a_target_is_judged_by_its_contrary_answers(study: Study) -> None:
    contrary = {"target": None, "kind": "none"}
    tables = study.tables("contrary", **contrary)
    told = study.diagnose(tables, study.students, **contrary)
    assert told["target"] is None
    assert told["direct"] == read_json(tables["indirect"])["contrary"]["lift_over_control"]
    assert told["indirect"] == {}
    assert told["preference"] == dict.fromkeys(["base", "teacher", "control", "student"])


def test_constrained_rows_are_compared_among_what_could_be_sampled(
    study: Study, tables: dict[str, Path], diagnosed: dict[str, Any]
) -> None:
    constraint = {"max_new_tokens": 64, "numbers": {"max_value": 999}}
    told = study.diagnose(tables, study.students, constraint=constraint)
    assert told["kl"] != diagnosed["kl"]
    assert told["kl"]["mean"] > 0
