"""Cells of the tables of results, and the tables, in Markdown; what they are made of."""

from collections.abc import Callable, Iterator
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

# The rows of a table, and how a file of a results root is read.
Rows = list[dict[str, Any]]
Read = Callable[[str], dict[str, Any]]
# The targets of the embedded study.
PROMPTED = [
    *("dolphin", "cat", "elephant", "wolf", "tiger", "owl", "dog", "lion"),
    *("eagle", "bear", "fox", "horse", "penguin", "panda", "whale", "rabbit"),
]


def number(value: float, digits: int = 3) -> str:
    """A number, rounded half up, without the zero before its point; what rounds to zero has no sign."""
    shown = str(Decimal(repr(value)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP) + 0)
    return shown.replace("-", "−").replace("0.", ".", 1) if abs(Decimal(shown)) < 1 else shown.replace("-", "−")


def interval(estimate: dict[str, Any], digits: int = 3) -> str:
    """A mean with its 95 % interval."""
    low, high = estimate["ci95"]
    return f"{number(estimate['mean'], digits)} [{number(low, digits)}, {number(high, digits)}]"


def p_value(p: float) -> str:
    """A p-value of two digits; below .0001 its bound."""
    if p < 1e-4:
        return "< .0001"
    return number(p, next(digits for digits in (2, 3, 4, 5) if p >= 10 ** (1 - digits)))


def whole(value: float) -> str:
    """A rank, which ties can leave between two whole numbers."""
    return f"{value:g}"


def table(header: list[str], rows: Iterator[list[str]]) -> str:
    """A table of Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
