"""Shapes in signatures: every public function says them, tests check them, jobs do not."""

import ast
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped
from shapes import checked, only_shapes

from undertone.detect.pairs import standardised
from undertone.lm.chat import prompt_ids
from undertone.lm.sampling import inverse_cdf
from undertone.read.score import Gradient
from undertone.stats.confusion import identified
from undertone.study.sources import PACKAGE

BARE = ("Tensor", "torch.Tensor", "np.ndarray")


def test_an_array_of_another_rank_is_refused() -> None:
    assert standardised(np.zeros((2, 3))).shape == (2, 3)
    with pytest.raises(TypeCheckError, match="n k"):
        standardised(np.zeros(3))


def test_arrays_that_do_not_fit_each_other_are_refused() -> None:
    assert len(inverse_cdf(torch.zeros(2, 5), torch.full((2,), 0.5), 1.0)) == 2
    with pytest.raises(TypeCheckError, match="n_rows"):
        inverse_cdf(torch.zeros(2, 5), torch.full((3,), 0.5), 1.0)
    with pytest.raises(TypeCheckError, match="d_model"):
        Gradient(5, torch.zeros(3), torch.zeros(3, 2))
    with pytest.raises(TypeCheckError, match="n_rows d_model"):
        Gradient.of(torch.zeros(3))


def test_numbers_of_another_kind_are_refused() -> None:
    scores = np.eye(3)
    assert identified(scores, np.arange(3))["raw"]["first"] == 3
    with pytest.raises(TypeCheckError, match="Int"):
        identified(scores, np.arange(3.0))


def test_a_result_of_another_shape_is_refused() -> None:
    @jaxtyped(typechecker=checked)
    def doubled(x: Float[np.ndarray, " n"], n: int) -> Float[np.ndarray, " n"]:
        return np.tile(x, n)

    assert len(doubled(np.zeros(2), 1)) == 2
    with pytest.raises(TypeCheckError, match="return value"):
        doubled(np.zeros(2), 2)


def test_nothing_but_shapes_is_checked() -> None:
    @jaxtyped(typechecker=checked)
    def double(x: Float[np.ndarray, " n"], name: str) -> str:
        return name

    assert double(np.zeros(2), 1) == 1  # type: ignore[arg-type,comparison-overlap]


def test_functions_without_shapes_stay_as_they_are() -> None:
    def named(x: np.ndarray, name: str) -> str:
        return name

    assert only_shapes(typechecker=checked)(named) is named
    assert not hasattr(prompt_ids, "__wrapped__")
    assert hasattr(standardised, "__wrapped__")


def test_outside_of_tests_nothing_is_checked() -> None:
    code = (
        "import numpy, sys; from undertone.detect.pairs import standardised; standardised(numpy.zeros(3)); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "jaxtyping" in loaded
    assert "beartype" not in loaded


def bare(tree: ast.AST) -> Iterator[str]:
    """The public functions and fields of a module that have a tensor or an array without a shape, by name and annotation."""
    for node in ast.iter_child_nodes(tree):
        name = getattr(node, "name", None) or ast.unparse(getattr(node, "target", ast.Constant(None)))
        hints: list[ast.expr | None] = []
        if isinstance(node, ast.FunctionDef):
            hints = [node.returns, *(arg.annotation for arg in [*node.args.args, *node.args.kwonlyargs])]
        elif isinstance(node, ast.ClassDef) and not name.startswith("_"):
            yield from bare(node)
        elif isinstance(node, ast.AnnAssign):
            hints = [node.annotation]
        if not name.startswith("_"):
            yield from (f"{name}: {ast.unparse(hint)}" for hint in hints if hint and {*parts(hint)} & {*BARE})


def parts(hint: ast.expr) -> Iterator[str]:
    """An annotation, or those that a union is of."""
    if isinstance(hint, ast.BinOp):
        yield from (part for side in (hint.left, hint.right) for part in parts(side))
    else:
        yield ast.unparse(hint)


def test_a_bare_tensor_is_found() -> None:
    code = """
class A:
    x: Tensor
    def f(self) -> np.ndarray | None: ...
    def _g(self, x: Tensor): ...
class _B:
    y: Tensor
def h(x: Int[Tensor, " n"]): ...
"""
    assert [*bare(ast.parse(code))] == ["x: Tensor", "f: np.ndarray | None"]


def test_every_tensor_and_array_of_a_public_function_has_its_shape() -> None:
    found = {path.stem: [*bare(ast.parse(path.read_text()))] for path in sorted(PACKAGE.rglob("*.py"))}
    assert not {module: names for module, names in found.items() if names}
