"""The code of a stage: what its files import, and which edits and moves change their versions."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from example import study

from undertone.study import sources
from undertone.study.node import Node
from undertone.study.sources import NEUTRAL, PACKAGE, SCRIPTS, code_of, code_version, imports, modules
from undertone.study.stages import STAGES
from undertone.study.stamp import stamp

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
        ("import undertone.stats.stats", {"stats"}),
        ("import undertone.stats.stats as s, json", {"stats"}),
        ("from undertone.stats.stats import mean_interval", {"stats"}),
        ("from undertone import stats, files", {"stats", "files"}),
        ("def f():\n    from undertone.stats.stats import mean_interval", {"stats"}),
        ("if True:\n    import undertone.lm.chat", {"chat"}),
        ("import json\nfrom pathlib import Path", set()),
        ("import undertone.nowhere", set()),
        ("# import undertone.stats.stats\nx = 'import undertone.stats.stats'", set()),
    ],
)
def test_imports_are_found_wherever_they_stand(tmp_path: Path, code: str, found: set[str]) -> None:
    path = tmp_path / "module.py"
    path.write_text(code)
    assert {path.stem for path in imports(path)} == found
    assert set(imports(path)) <= set(modules().values())


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of two modules, the second of which imports the first and a neutral one, and a script."""
    package = tmp_path / "undertone"
    for name, code in {
        "undertone/lower": "def below(): return 1",
        "undertone/runtime/files": "def write(): return 'a message'",
        "undertone/hidden": "def unseen(): return 1",
        "undertone/upper": (
            "from undertone.runtime.files import write\nfrom undertone.lower import below\ndef above(): return below()"
        ),
        "scripts/upper": "from undertone.upper import above\nabove()",
    }.items():
        write(tmp_path / f"{name}.py", code)
    monkeypatch.setattr(sources, "PACKAGE", package)
    monkeypatch.setattr(sources, "SCRIPTS", tmp_path / "scripts")
    forget()
    yield package
    monkeypatch.undo()
    forget()


def write(path: Path, code: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)


def forget() -> None:
    """As in another process."""
    for cached in (code_of, code_version, imports, modules, sources._parsed):
        cached.cache_clear()


def test_the_code_of_a_stage_is_known_by_names_without_folders(house: Path) -> None:
    assert set(code_of("upper")) == {"scripts/upper", "upper", "lower"}


def test_a_module_that_moves_changes_no_version(house: Path) -> None:
    before = code_of("upper")
    write(house / "deep" / "__init__.py", "")
    (house / "lower.py").rename(house / "deep/lower.py")
    for path in (house / "upper.py", house.parent / "scripts/upper.py"):
        path.write_text(path.read_text().replace("undertone.lower", "undertone.deep.lower"))
    forget()
    assert code_of("upper") == before


def test_imports_in_another_order_change_no_version(house: Path) -> None:
    before = code_of("upper")
    lines = (house / "upper.py").read_text().splitlines()
    (house / "upper.py").write_text("\n".join([lines[1], lines[0], *lines[2:]]))
    forget()
    assert code_of("upper") == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("import below", "import below as beneath"),
        ("undertone.lower", "undertone.hidden"),
        ("import below", "import below, more"),
    ],
)
def test_another_import_changes_the_version(house: Path, old: str, new: str) -> None:
    before = code_of("upper")["upper"]
    (house / "upper.py").write_text((house / "upper.py").read_text().replace(old, new))
    forget()
    assert code_of("upper")["upper"] != before


def test_neutral_modules_and_what_they_alone_import_count_for_nothing(house: Path) -> None:
    before = code_of("upper")
    (house / "runtime/files.py").write_text("from undertone.hidden import unseen\n\ndef write(): return 'another message'")
    forget()
    assert code_of("upper") == before
    (house / "upper.py").write_text((house / "upper.py").read_text().replace("import write", "import write, read"))
    forget()
    assert code_of("upper") == before


def test_no_two_modules_share_a_name() -> None:
    stems = [path.stem for path in PACKAGE.rglob("*.py") if path.stem != "__init__"]
    assert len(stems) == len(set(stems))


def test_no_module_imports_in_a_way_that_a_stamp_would_miss() -> None:
    for path in [*PACKAGE.rglob("*.py"), *SCRIPTS.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path} imports relatively"
            named = {getattr(node, "id", None), getattr(node, "attr", None)}
            assert not named & {"import_module", "__import__"}, f"{path} imports by a name made up at run time"


def test_the_code_of_a_stage_is_its_script_and_all_that_it_imports() -> None:
    numbers = set(code_of("numbers"))
    assert {"scripts/numbers", "numbers", "datasets", "wordings"} <= numbers
    assert "training" not in numbers
    assert "training" in stamp(study(), Node("student", "lion"))["code"]


def test_a_module_is_neutral_by_its_package_not_by_its_name(house: Path) -> None:
    write(house / "files.py", (house / "runtime/files.py").read_text())
    (house / "runtime/files.py").unlink()
    (house / "upper.py").write_text((house / "upper.py").read_text().replace("undertone.runtime.files", "undertone.files"))
    forget()
    assert set(code_of("upper")) == {"scripts/upper", "upper", "lower", "files"}


def test_neutral_modules_are_in_no_stamp() -> None:
    neutral = {path.stem for package in NEUTRAL for path in (PACKAGE / package).rglob("*.py")} - {"__init__"}
    assert neutral >= {"files", "entries", "stages"}
    for stage in STAGES:
        assert not set(code_of(stage)) & neutral


def test_no_result_depends_on_the_order_in_which_threads_group_rows() -> None:
    """Sums of the same numbers in another order differ in their last digits, and results are the same to the byte."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "group_by":
                assert "maintain_order" in {keyword.arg for keyword in node.keywords}, f"{path}:{node.lineno}"
