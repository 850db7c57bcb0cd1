"""Why a result is stale, in a line: the keys that differ, old → new."""

import re
from pathlib import Path
from typing import Any

import pytest
from example import study

from undertone.study.node import Node
from undertone.study.stamp import stamp
from undertone.study.why import changes
from workflow import Project


def told(node: Node, **edit: Any) -> str:
    """What is said of a stage's parameters before and after an edit, as Snakemake records them."""
    before, after = repr(stamp(study(), node)), repr(stamp(study(**edit), node))
    return changes({before}, {after})


@pytest.fixture(autouse=True)
def beside_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])


def test_an_edited_setting_is_named_with_its_old_and_new_value() -> None:
    assert told(Node("student", "lion"), student={"lr": 0.5}) == "student.lr: 0.0002 → 0.5 (lion/student)"
    assert told(Node("pref", "owl"), numbers={"banned": [4]}) == ("numbers.banned: [] → [4] (control/numbers, owl/numbers)")


def test_what_is_the_same_for_many_stages_is_said_once() -> None:
    said = told(Node("transfer"), student={"rank": 4})
    assert re.fullmatch(r"student\.rank: 8 → 4 \(contrary/student, control/student, finetune-lion/student and \d more\)", said)


def test_what_is_new_or_gone_is_nothing_before_or_after() -> None:
    assert "numbers.canonical: None → nothing (lion/numbers)" in told(
        Node("student", "lion"), overrides={"lion": {"numbers": {"canonical": {"count": 3}}}}
    )
    assert "numbers.canonical.count: nothing → 3 (lion/numbers)" in told(
        Node("student", "lion"), overrides={"lion": {"numbers": {"canonical": {"count": 3}}}}
    )


def test_long_values_and_many_changes_are_shortened() -> None:
    said = told(Node("samples", "lion"), teacher={"persona": "{animal} " * 500})
    assert len(said) < 300
    assert "(4502 letters)" in said
    candidates = [f"animal number {k}" for k in range(20)]
    made = stamp(study(pref={"candidates": ["lion", "owl", *candidates]}), Node("pref", "lion"))
    edited = stamp(study(pref={"candidates": ["lion", "owl", *candidates[:9], "bat", *candidates[10:]]}), Node("pref", "lion"))
    assert changes({repr(made)}, {repr(edited)}).startswith("pref.candidates: ['lion', 'owl', ")
    many = {"model": {"embedded": dict.fromkeys(("seed", "batch_size", "hidden_size", "vocab_size", "n_layers"), 1600)}}
    many["model"]["embedded"] |= {"n_layers": 6, "lr": 0.5, "beta2": 0.5, "weight_decay": 0.5}
    assert told(Node("model"), **many).endswith(", and 2 more")


def test_code_and_files_are_named_by_their_path() -> None:
    made = stamp(study(), Node("numbers", "mine"))
    code, files = made["code"] | {"numbers": "0123"}, {"mine.csv": "4567"}
    said = changes({repr(made)}, {repr({**made, "code": code, "files": files})})
    assert re.fullmatch(r"code of numbers: \w+ → 0123, content of mine\.csv: missing → 4567", said)


@pytest.mark.parametrize(("old", "new"), [(set(), {"'a'"}), ({"'a'"}, {"'b'"}), ({"<object>"}, {"{}"}), ({"{'a': 1}"}, set())])
def test_of_anything_else_nothing_is_said(old: set[str], new: set[str]) -> None:
    assert changes(old, new) == ""


def test_a_dry_run_says_why_in_a_line(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project")
    project.snakemake("results/mine/numbers.parquet", "results/prompts.parquet")
    project.configure(prompts={"seed": 7}, numbers={"banned": [13]})
    project.replace("mine.csv", '"5, 6, 7"', '"5, 6, 8"')
    output = project.dry_run("results/mine/numbers.parquet", "results/prompts.parquet")
    said = re.findall(r"Params have changed since last execution: (.*)", output)
    assert sorted(said)[1] == "prompts.seed: 42 → 7 (prompts)"
    assert re.fullmatch(r"content of mine\.csv: \w+ → \w+, numbers\.banned: \[\] → \[13\] \(mine/numbers\)", sorted(said)[0])
    assert "'settings'" not in output
    assert "Workflow ID" not in output  # one of the lines on Snakemake and the machine
