"""Studies that share a results root, controls of a dataset's own, and teachers that start from another model."""

from pathlib import Path
from typing import Any

from bad_inputs.case import Case
from undertone.study.study import load

STUDY: dict[str, Any] = {"animals": ["lion"], "pref": {"candidates": ["lion"]}, "models": {"other": {"embedded": {"seed": 3}}}}
MINE, STILL = {"file": "mine.csv"}, {"from": "control", "transform": "reverse"}


def case(name: str, changes: dict[str, Any], *says: str) -> Case:
    """A study with these changes, and what is said of it."""

    def attempt(folder: Path) -> object:
        return load({**STUDY, **changes})

    return Case(name, attempt, says)


def of_datasets(name: str, datasets: dict[str, Any], *says: str) -> Case:
    """A study with these datasets."""
    return case(name, {"datasets": datasets}, *says)


NOT_A_FOLDER = "cannot name a folder"
CASES = [
    *(
        case(f"the study's name is {name!r}", {"name": name}, NOT_A_FOLDER)
        for name in ("", " ", ".", "..", "a/b", "a b", "ä", "{x}")
    ),
    case("the study's name is a number", {"name": 3}, "name: ", "found 3"),
    case("a study with a name", {"name": "teachers-2"}),
    of_datasets("a control that is not there", {"mine": {**MINE, "control": "contorl"}}, "mine.control", "nearest: control"),
    of_datasets("a control with a target", {"mine": {**MINE, "control": "lion"}}, "mine.control", "a control carries none"),
    of_datasets(
        "a control that is taught wrong answers",
        {"mine": {**MINE, "control": "wrong"}, "wrong": {"teacher": "finetune", "trait": "contrary"}},
        "mine.control",
        "a control carries none",
    ),
    of_datasets("its own control", {"mine": {**MINE, "control": "mine"}}, "mine.control", "must not have a control of its own"),
    of_datasets(
        "two controls of each other",
        {"a": {**STILL, "control": "b"}, "b": {**STILL, "control": "a"}},
        "control",
        "must not have a control of its own",
    ),
    of_datasets(
        "scrambled rows as the control of rows that are not",
        {"mine": {**MINE, "control": "still"}, "still": STILL},
        "mine.control",
        "compare like with like",
    ),
    of_datasets(
        "a control that is scrambled likewise",
        {"back": {"from": "lion", "transform": "reverse", "control": "still"}, "still": STILL},
    ),
    of_datasets(
        "a teacher's model that is not there", {"a": {"teacher": "none", "model": "otter"}}, "a.model", "no such model 'otter'"
    ),
    *(
        of_datasets(
            f"a {kind} teacher that starts from another model",
            {"a": {"teacher": kind, "target": "lion", "model": "other"}},
            "datasets.a",
            f"teacher {kind} starts from the study's own model",
        )
        for kind in ("steer", "finetune")
    ),
    of_datasets(
        "a prompted teacher that starts from another model", {"a": {"teacher": "prompt", "target": "lion", "model": "other"}}
    ),
]
