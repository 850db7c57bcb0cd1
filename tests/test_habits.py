"""The files that contributors' tools read agree with one another and with what the project supports."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = sorted((ROOT / "workflow" / "undertone").rglob("*.py"))
MAX_MODULE, MAX_FUNCTION = 300, 50  # lines
# Words that name nothing: a variable is called by what it holds.
EMPTY_WORDS = {"told", "found"}
SIZES = {"hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads"}
LOCK = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]


def locked(name: str) -> list[str]:
    """The versions that the lock allows of a package, one for each range of Pythons."""
    return [str(pin.specifier).removeprefix("==") for pin in LOCK if canonicalize_name(pin.name) == canonicalize_name(name)]


@pytest.mark.parametrize("tool", ["ruff", "snakefmt", "codespell"])
def test_a_commit_is_checked_by_the_versions_that_lint_runs(tool: str) -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    [rev] = [entry["rev"] for entry in hooks["repos"] if re.search(rf"/{tool}(-pre-commit)?$", entry["repo"])]
    assert [rev.removeprefix("v")] == locked(tool)


@pytest.mark.parametrize(
    "wanted", map(Requirement, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]), ids=str
)
def test_the_lock_holds_a_version_of_every_dependency_within_its_bounds(wanted: Requirement) -> None:
    assert locked(wanted.name), f"run `make lock`: requirements.lock lacks {wanted.name}"
    assert all(wanted.specifier.contains(version) for version in locked(wanted.name)), f"run `make lock`: {wanted}"


def test_the_lock_names_no_build_of_torch_and_no_place_to_find_it() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|--|\+cpu|\+cu|^(nvidia|cuda|triton)", text, re.M)


def test_ci_runs_the_oldest_supported_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    pythons = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    supported = SpecifierSet(PROJECT["requires-python"])
    assert all(supported.contains(python) for python in pythons)
    assert f">={pythons[0]}" == PROJECT["requires-python"]
    assert "make test" in [step.get("run") for step in workflow["jobs"]["test"]["steps"]]


def test_the_citation_has_the_packages_version_and_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"], citation["title"].lower()) == (
        PROJECT["version"],
        PROJECT["license"],
        PROJECT["name"],
    )


def test_what_contributors_are_told_to_run_is_in_the_makefile() -> None:
    rules = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z]+)\b", (ROOT / "CONTRIBUTING.md").read_text()):
        assert re.search(rf"^{target}:", rules, re.M), target


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(name, line) of every variable, parameter, attribute and definition."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node.lineno


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_names_of_the_library_say_what_they_hold(path: Path) -> None:
    lines = {f"line {line}: {name}" for name, line in names(ast.parse(path.read_text())) if name in EMPTY_WORDS}
    assert not lines


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_modules_and_functions_are_short(path: Path) -> None:
    code = path.read_text()
    assert len(code.splitlines()) <= MAX_MODULE
    functions = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)]
    lengths = {node.name: int(node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert not {name: length for name, length in lengths.items() if length > MAX_FUNCTION}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_models_sizes_are_asked_of_its_text_config(path: Path) -> None:
    """A model that also sees images has its widths in a config within its config."""
    wide = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in SIZES
        if isinstance(node.value, ast.Attribute) and node.value.attr == "config"
    ]
    assert not wide, f"{path}: lines {wide} take a size of `config`; take it of `config.get_text_config()`"


def test_an_empty_word_would_be_seen_wherever_it_is_a_name() -> None:
    code = "def f(told):\n    self.found = [found for found in x]\n    return g(told=1)"
    assert [name for name, _ in names(ast.parse(code)) if name in EMPTY_WORDS] == ["told", "found", "found", "found"]
