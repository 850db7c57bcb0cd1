"""Stamps: which stages, settings, code and files they hold, and which edits change them."""

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from snakemake.utils import update_config

from undertone.config import CONTROL, Study, load
from undertone.stamp import (
    NEUTRAL,
    PACKAGE,
    SCRIPTS,
    STAGES,
    ancestors,
    code_version,
    content_version,
    digest,
    imports,
    own_settings,
    sources,
    stamp,
)

ROOT = Path(__file__).parents[1]
Pair = tuple[str, str | None]
COMPARE = {("transfer", None)}
METRICS = {("model_metrics", None)}
SAE_METRICS = {("sae_metrics", None)}
OWN = ("lion", "owl", "mine", "scrambled")
TOLD = ("lion", "owl", "mine")  # the datasets with a filter of their own


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def study(**changes: Any) -> Study:
    config: dict[str, Any] = {
        "animals": ["lion", "owl"],
        "datasets": {"mine": {"file": "mine.csv"}, "scrambled": {"from": "lion", "transform": "reverse"}},
        "pref": {"candidates": ["lion", "owl", "cat"]},
    }
    update_config(config, changes)
    return load(config)


def pairs(of: Study) -> set[Pair]:
    """Every stage with every dataset that has it."""
    datasets = {(name, dataset) for name, stage in STAGES.items() if not stage.shared for dataset in of.names}
    made_elsewhere = each("samples", *of.datasets) | each("transform", *of.generated, *of.files)
    made_elsewhere |= {(name, dataset) for name in ("numbers", "filter_plot") for dataset in of.transformed}
    return {(name, None) for name, stage in STAGES.items() if stage.shared} | (datasets - made_elsewhere)


def each(name: str, *datasets: str) -> set[Pair]:
    return {(name, dataset) for dataset in datasets}


def after(of: Study, roots: set[Pair]) -> set[Pair]:
    """These stages and all that follow from them."""
    return {pair for pair in pairs(of) if roots & set(ancestors(of, *pair))}


def keys(value: Any) -> list[list[str]]:
    """The keys of every dict in a stamp, as they stand."""
    found = [list(value)] if isinstance(value, dict) else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return found + [own for part in inner for own in keys(part)]


def test_ancestors_come_before_what_follows_from_them() -> None:
    for pair in pairs(study()):
        found = ancestors(study(), *pair)
        assert found[-1] == pair
        assert len(set(found)) == len(found)
        for position, other in enumerate(found):
            assert set(ancestors(study(), *other)) <= set(found[: position + 1])


def test_the_ancestors_of_a_preference_are_its_own_chain_and_the_controls() -> None:
    chain = ["samples", "numbers", "student", "pref"]
    shared = [("model", None), ("prompts", None)]
    lion, control = ([(name, dataset) for name in chain] for dataset in ("lion", CONTROL))
    assert ancestors(study(), "pref", "lion") == [*shared, *lion[:-1], *control, lion[-1]]
    assert ancestors(study(), "pref", CONTROL) == [*shared, *control]
    assert ancestors(study(), "student", "lion") == [*shared, *lion[:-1]]


def test_a_file_of_the_users_own_has_no_teacher() -> None:
    assert ancestors(study(), "numbers", "mine") == [("numbers", "mine")]
    assert ancestors(study(), "student", "mine") == [("model", None), ("numbers", "mine"), ("student", "mine")]


def test_a_transformed_dataset_comes_after_what_it_is_made_from() -> None:
    lion = [("model", None), ("prompts", None), ("samples", "lion"), ("numbers", "lion")]
    assert ancestors(study(), "transform", "scrambled") == [*lion, ("transform", "scrambled")]
    assert ancestors(study(), "student", "scrambled") == [*lion, ("transform", "scrambled"), ("student", "scrambled")]
    again = study(datasets={"again": {"from": "scrambled", "transform": "mix", "other": "mine", "fraction": 0.5}})
    found = ancestors(again, "transform", "again")
    assert {("transform", "scrambled"), ("numbers", "lion"), ("numbers", "mine")} < set(found)
    one = study(datasets={"one": {"from": "owl", "transform": "one-format", "format": 0}})
    assert ("prompts", None) in ancestors(one, "transform", "one")


def test_a_comparison_comes_after_every_dataset() -> None:
    assert each("pref", CONTROL, *OWN) <= set(ancestors(study(), "transfer", None))


EDITS: list[tuple[dict[str, Any], set[Pair]]] = [
    ({"overrides": {"lion": {"student": {"rank": 4}}}}, {("student", "lion")}),
    ({"overrides": {"lion": {"samples": {"seed": 4}}}}, {("samples", "lion")}),
    ({"overrides": {"lion": {"numbers": {"banned": [4]}}}}, {("numbers", "lion")}),
    ({"overrides": {"mine": {"numbers": {"banned": [4]}}}}, {("numbers", "mine")}),
    ({"overrides": {CONTROL: {"student": {"rank": 4}}}}, {("student", CONTROL)}),
    ({"overrides": {"lion": {"student": {"rank": 8}}}}, set()),
    ({"overrides": {"lion": {"student": {"seeds": [1, 2]}}}}, each("student_plot", "lion") | each("pref", "lion")),
    ({"student": {"seeds": [1, 2, 3, 4, 5, 6]}}, each("student_plot", CONTROL, *OWN) | each("pref", CONTROL, *OWN)),
    ({"student": {"epochs": 9}}, each("student", CONTROL, *OWN)),
    ({"student": {"rank": "8", "lr": "2e-4"}}, set()),
    ({"numbers": {"max_count": 9}}, each("numbers", CONTROL, *TOLD) | METRICS),
    ({"samples": {"temperature": 0.9}}, each("samples", CONTROL, "lion", "owl") | METRICS),
    ({"prompts": {"n": 9}}, {("prompts", None)}),
    ({"teacher": {"persona": "Only {animal}s."}}, each("samples", "lion", "owl") | METRICS | SAE_METRICS),
    ({"teacher": {"separator": "\n"}}, each("samples", "lion", "owl") | METRICS | SAE_METRICS),
    ({"pref": {"seed": 1}}, each("pref", CONTROL, *OWN) | METRICS | SAE_METRICS),
    ({"pref": {"candidates": ["lion", "owl", "cat", "dog"]}}, each("pref", CONTROL, *OWN) | METRICS | SAE_METRICS),
    ({"model": {"embedded": {"steps": 9}}}, {("model", None)}),
    ({"model": {"dtype": "float32"}}, {("model", None)}),
    ({"sae": {"k": 4}}, {("sae", None)}),
    ({"sae": {"release": "a", "id": "b"}}, {("sae", None)}),
    ({"model": {"revision": "abc"}}, set()),
    ({"model": {"name": "a/model", "revision": "abc"}}, {("model", None)}),
    ({"datasets": {"mine": {"file": "yours.csv"}}}, {("numbers", "mine")}),
    ({"datasets": {"mine": {"filtered": False}}}, {("numbers", "mine")}),
    ({"datasets": {"mine": {"target": "cat"}}}, {("pref", "mine")}),
    ({"datasets": {"other": {"file": "other.csv"}}}, COMPARE),
    ({"datasets": {"scrambled": {"seed": 1}}}, {("transform", "scrambled")}),
    ({"datasets": {"scrambled": {"from": "owl"}}}, {("transform", "scrambled")}),
    ({"datasets": {"scrambled": {"target": "cat"}}}, {("pref", "scrambled")}),
    ({"animals": ["lion", "owl", "cat"]}, COMPARE),
    ({"animals": ["owl", "lion"]}, set()),
    ({"results": "elsewhere"}, set()),
]


@pytest.mark.parametrize(("edit", "roots"), EDITS, ids=lambda value: json.dumps(value) if isinstance(value, dict) else "")
def test_an_edit_changes_the_stamps_of_what_follows_from_it_and_no_other(edit: dict[str, Any], roots: set[Pair]) -> None:
    before = study()
    config = before.model_dump()
    update_config(config, edit)
    edited = load(config)
    changed = {pair for pair in pairs(before) if stamp(before, *pair) != stamp(edited, *pair)}
    assert changed == after(before, roots)


def test_a_model_of_the_hub_is_stamped_by_revision_and_not_by_the_embedded_models_settings() -> None:
    hub = {"name": "a/model", "revision": "abc"}
    stamps = [
        stamp(study(model={**hub, **change}), "model") for change in ({}, {"embedded": {"steps": 9}}, {"revision": "abd"})
    ]
    assert stamps[0] == stamps[1] != stamps[2]


def test_a_stamp_is_plain_and_sorted() -> None:
    for pair in pairs(study()):
        made = stamp(study(numbers={"canonical": {"count": 4}}), *pair)
        assert json.loads(json.dumps(made)) == made
        assert all(names == sorted(names) for names in keys(made))


def test_what_a_stage_is_told_stands_in_its_stamp() -> None:
    made = stamp(study(overrides={"lion": {"student": {"rank": 4}}}), "pref", "lion")
    assert own_settings(made, "student", "lion")["student"]["rank"] == 4
    assert own_settings(made, "samples", "lion")["target"] == "lion"
    assert own_settings(made, "samples", CONTROL)["target"] is None
    assert own_settings(made, "pref", "lion")["prompted"] is True
    assert own_settings(made, "prompts")["prompts"]["n"] == study().prompts.n
    assert own_settings(stamp(study(), "numbers", "mine"), "numbers", "mine")["dataset"]["file"] == "mine.csv"
    assert own_settings(stamp(study(), "model_metrics"), "model_metrics")["model"]["name"] is None


def test_digests_tell_stamps_apart() -> None:
    made = {name: digest(stamp(study(), "student", name)) for name in OWN}
    assert len(set(made.values())) == len(OWN)
    assert made["lion"] == digest(json.loads(json.dumps(stamp(study(), "student", "lion"))))


def test_a_stamp_holds_the_contents_of_the_files_that_its_stages_read(tmp_path: Path) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text("one")
    own = study(datasets={"mine": {"file": str(mine)}})
    before = {pair: stamp(own, *pair) for pair in pairs(own)}
    mine.write_text("two")
    assert {pair for pair in before if stamp(own, *pair) != before[pair]} == after(own, {("numbers", "mine")})
    assert before["pref", "lion"]["files"].keys() == {
        "config/corpus.yaml",
        "config/prompts/numbers.yaml",
        "config/prompts/questions.txt",
    }


def test_the_version_of_a_file_is_that_of_its_content(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    versions = [content_version(str(path))]
    for text in ("one", "two", "one"):
        path.write_text(text)
        versions.append(content_version(str(path)))
    assert versions[0] == "missing"
    assert versions[1] == versions[3] != versions[2]
    path.touch()
    assert content_version(str(path)) == versions[1]


CODE = '''"""A module."""

import math


def area(r: float) -> float:
    """Of a circle."""
    if r < 0:
        raise ValueError("r")
    return math.pi * r**2
'''


@pytest.fixture
def version_of(tmp_path: Path) -> Callable[[str], str]:
    """The code version of a module of this text; each text gets a file of its own."""

    def version(text: str) -> str:
        path = tmp_path / f"module{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text)
        return code_version(path)

    return version


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("import math", "# Circles.\nimport math"),
        ("import math", "import math  # for pi"),
        ("if r < 0:", "# No such circle.\n    if r < 0:"),
        ("if r < 0:", "\n\n    if r < 0:"),
        ("A module.", "Circles\n\nand more."),
        ("Of a circle.", "The area of a circle."),
        ('    """Of a circle."""\n', ""),
        ("(r: float)", "(\n    r: float\n)"),
        ("math.pi * r**2", "math.pi  *  r ** 2"),
    ],
)
def test_comments_docstrings_and_layout_do_not_change_the_version_of_code(
    version_of: Callable[[str], str], old: str, new: str
) -> None:
    assert CODE.count(old) == 1
    assert version_of(CODE.replace(old, new)) == version_of(CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("r**2", "r**3"),
        ("r < 0", "r <= 0"),
        ('ValueError("r")', 'ValueError("radius")'),
        ("import math", "import math, sys"),
        ("area(r: float)", "area(r: int)"),
        ("    return", "        return"),
        ("import math", 'import math\n\nNAME = """A module."""'),
    ],
)
def test_code_changes_the_version_of_code(version_of: Callable[[str], str], old: str, new: str) -> None:
    assert CODE.count(old) == 1
    assert version_of(CODE.replace(old, new)) != version_of(CODE)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import undertone.stats", {"stats"}),
        ("import undertone.stats as s, json", {"stats"}),
        ("from undertone.stats import mean_interval", {"stats"}),
        ("from undertone import stats, files", {"stats", "files"}),
        ("def f():\n    from undertone.stats import mean_interval", {"stats"}),
        ("if True:\n    import undertone.chat", {"chat"}),
        ("import json\nfrom pathlib import Path", set()),
        ("import undertone.nowhere", set()),
        ("# import undertone.stats\nx = 'import undertone.stats'", set()),
    ],
)
def test_imports_are_found_wherever_they_stand(tmp_path: Path, code: str, found: set[str]) -> None:
    path = tmp_path / "module.py"
    path.write_text(code)
    assert set(imports(path)) == {PACKAGE / f"{name}.py" for name in found}


def test_no_module_imports_in_a_way_that_a_stamp_would_miss() -> None:
    for path in [*PACKAGE.glob("*.py"), *SCRIPTS.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path} imports relatively"
            named = {getattr(node, "id", None), getattr(node, "attr", None)}
            assert not named & {"import_module", "__import__"}, f"{path} imports by a name made up at run time"


def test_the_code_of_a_stage_is_its_script_and_all_that_it_imports() -> None:
    numbers = {path.relative_to(PACKAGE.parent).as_posix() for path in sources("numbers")}
    assert {"scripts/numbers.py", "undertone/numbers.py", "undertone/datasets.py", "undertone/prompts.py"} <= numbers
    assert "undertone/training.py" not in numbers
    assert "undertone/training.py" in stamp(study(), "student", "lion")["code"]


def test_neutral_modules_are_in_no_stamp() -> None:
    assert all((PACKAGE / name).exists() for name in NEUTRAL)
    for pair in pairs(study()):
        assert not {Path(path).name for path in stamp(study(), *pair)["code"]} & NEUTRAL


def test_every_stage_has_a_script_and_real_sections() -> None:
    for name, stage in STAGES.items():
        assert (SCRIPTS / f"{name}.py").exists(), name
        assert set(stage.sections) <= set(Study.model_fields), name
    assert {path.stem for path in SCRIPTS.glob("*.py")} == set(STAGES)
