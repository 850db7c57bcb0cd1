"""The code of a stage: its script and the modules that it imports, each with a version that changes only with its meaning."""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1]
SCRIPTS = PACKAGE.parent / "scripts"
# Packages that determine what is compared, how it is written and how much is run at once, but not what is computed. The
# settings that count are in the stamp itself, and a new key, message or progress bar must not cost a GPU-week.
NEUTRAL = ("runtime", "study")


class Import(NamedTuple):
    """A name that a file imports from a module of the package; "" is the module itself."""

    module: str
    name: str
    alias: str


@functools.cache
def code_of(stage: str) -> dict[str, str]:
    """The version of each file of a stage's code: modules by name, which is unique, and scripts by `scripts/name`.

    A module that moves to another folder keeps its key and its version, and so do those that import it.
    """
    return {_key(path): code_version(path) for path in sources(stage)}


def sources(stage: str) -> list[Path]:
    """The files that a stage's code is made of: its script and every module of the package that it imports, directly or not.

    Neutral packages are left out, and with them what they alone import.
    """
    files: list[Path] = []
    pending = [SCRIPTS / f"{stage}.py"]
    while pending:
        path = pending.pop()
        if path not in files and not is_neutral(path):
            files.append(path)
            pending += imports(path)
    return sorted(files)


def is_neutral(path: Path) -> bool:
    """Whether no result depends on a file's code."""
    return any(path.is_relative_to(PACKAGE / package) for package in NEUTRAL)


@functools.cache
def imports(path: Path) -> tuple[Path, ...]:
    """The package's modules that a file imports, wherever in the file; nothing is executed."""
    known = modules()
    return tuple(sorted(known[each.module] for each in _parsed(path)[0]))


@functools.cache
def modules() -> dict[str, Path]:
    """The package's modules by name."""
    return {path.stem: path for path in sorted(PACKAGE.rglob("*.py")) if path.stem != "__init__"}


@functools.cache
def code_version(path: Path) -> str:
    """Return a hash of what a file does; comments, docstrings, layout and the location of imported modules do not count.

    The template of a page, MODULE.html beside its module, is hashed verbatim.
    """
    (imported, meaning), known = _parsed(path), modules()
    names = sorted(f"{each.module} {each.name} {each.alias}" for each in imported if not is_neutral(known[each.module]))
    template = [page.read_text()] if (page := path.with_suffix(".html")).is_file() else []
    return hashlib.sha256("\n".join([*names, meaning, *template]).encode()).hexdigest()[:8]


@functools.cache
def _parsed(path: Path) -> tuple[tuple[Import, ...], str]:
    """What a file imports from the package, and the rest of what it does, as code."""
    tree = ast.parse(path.read_text())
    return tuple(_imports(tree)), ast.unparse(_Meaning().visit(tree))


class _Meaning(ast.NodeTransformer):
    """What a file does, without its docstrings and its imports of the package."""

    def visit_Import(self, node: ast.Import) -> ast.AST | None:
        node.names = [alias for alias in node.names if not _is_own(alias.name)]
        return node if node.names else None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if _is_own(node.module) else node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_docstring = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_docstring else node


def _imports(tree: ast.AST) -> Iterator[Import]:
    """What a file imports from the package."""
    known = modules()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            pairs = [(alias.name, "", alias) for alias in node.names if _is_own(alias.name)]
        elif isinstance(node, ast.ImportFrom) and _is_own(node.module):
            pairs = [(str(node.module), alias.name, alias) for alias in node.names]
        else:
            continue
        for module, name, alias in pairs:
            path = PACKAGE.joinpath(*module.split(".")[1:])
            if name and path.is_dir() and name in known:
                yield Import(name, "", alias.asname or "")
            elif (stem := module.rsplit(".", 1)[-1]) in known:
                yield Import(stem, name, alias.asname or "")


def _is_own(module: str | None) -> bool:
    return module is not None and module.split(".")[0] == PACKAGE.name


def _key(path: Path) -> str:
    return path.stem if path.is_relative_to(PACKAGE) else f"{SCRIPTS.name}/{path.stem}"
