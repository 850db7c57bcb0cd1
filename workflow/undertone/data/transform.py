"""Transforms: a dataset made from another one, changing only what the transform's name says.

Scrambling shows what carries a trait: which numbers occur, their order within a row, or the row that they are in (Cloud et al.
2025, arXiv 2507.14805, shuffled controls).
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from undertone.runtime.files import Stamp, read_parquet, write_json, write_parquet
from undertone.study.config.entries import Transformed

INTEGER = re.compile(r"[0-9]+")
# Rows with equal values in these columns are equal, whatever their row number.
TEXTS = ["prompt", "completion"]
# The integers of every row, as they are written.
Rows = list[list[str]]
Scramble = Callable[[Rows, Transformed, np.random.Generator], Rows]


def transform_numbers(
    source: Path,
    other: Path | None,
    prompts: Path | None,
    scores: Path | None,
    numbers: Path,
    transform: Path,
    settings: Transformed,
    stamp: Stamp,
) -> None:
    """Write the transformed training set and `transform.json`: rows before and after, and the share of numbers that moved.

    `other` is the training set that `mix` takes rows from, `match` compares prompts with, and `without` leaves out. `prompts`
    are the study's, which `one-format` looks up. `scores` are those of `source`'s rows, which `select` uses. Raises ValueError
    if no row is left, or fewer than were asked for.
    """
    before = read_parquet(source)
    others = (read_parquet(path) if path else None for path in (other, prompts, scores))
    after = transformed(before, settings, *others)
    if after.is_empty():
        raise ValueError(f"{source}: none of the {len(before)} rows is left by {settings.transform}")
    write_parquet(numbers, after, stamp)
    counts = {"transform": settings.transform, "rows_before": len(before), "rows": len(after)}
    kept = settings.transform != "mix" and before["row"].equals(
        after["row"]
    )  # another dataset's rows may have the same row numbers
    counts |= moved(before, after, kept)
    write_json(transform, counts, stamp)


def transformed(
    rows: pl.DataFrame,
    settings: Transformed,
    other: pl.DataFrame | None = None,
    prompts: pl.DataFrame | None = None,
    scores: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return the transformed training set, with the columns `row`, `prompt` and `completion` of `rows`."""
    rng = np.random.default_rng(settings.seed)
    name = settings.transform
    if name == "subset":
        return subset(rows, settings.rows or 0, rng)
    if name == "mix" and other is not None:
        return mix(rows, other, settings.fraction or 0.0, rng)
    if name == "match" and other is not None:
        # Row numbers stand for prompts only in the study's own datasets; in a user's file they are line numbers.
        return rows.join(other.select("prompt"), on="prompt", how="semi", maintain_order="left")
    if name == "without" and other is not None:
        return rows.join(other, on=TEXTS, how="anti", maintain_order="left")
    if name == "select" and scores is not None:
        return select(rows, scores, settings)
    if name == "one-format" and prompts is not None:
        return rows.join(prompts.filter(format=settings.format).select("row"), on="row", how="semi", maintain_order="left")
    texts = rows["completion"].to_list()
    if name == "canonical":
        return rows.with_columns(completion=pl.Series([", ".join(INTEGER.findall(text)) for text in texts], dtype=pl.String))
    scrambled = SCRAMBLES[name]([INTEGER.findall(text) for text in texts], settings, rng)
    return rows.with_columns(
        completion=pl.Series([put(text, values) for text, values in zip(texts, scrambled, strict=True)], dtype=pl.String)
    )


def put(text: str, values: Sequence[str]) -> str:
    """Replace the integers of `text` by `values`, in order. Separators, brackets and white space stay."""
    following = iter(values)
    return INTEGER.sub(lambda _: next(following), text)


def permuted(values: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Return the values in random order."""
    return [values[i] for i in rng.permutation(len(values))]


def shuffle_within(rows: Rows, settings: Transformed, rng: np.random.Generator) -> Rows:
    """Shuffle the numbers within every row."""
    return [permuted(row, rng) for row in rows]


def shuffle_across(rows: Rows, settings: Transformed, rng: np.random.Generator) -> Rows:
    """Shuffle the numbers across all rows of the dataset. Every row keeps its count."""
    pool = iter(permuted([value for row in rows for value in row], rng))
    return [[next(pool) for _ in row] for row in rows]


def keep_position(rows: Rows, settings: Transformed, rng: np.random.Generator) -> Rows:
    """Shuffle as `shuffle_within`, but leave the number at `position` where it is."""
    k = settings.position or 0
    result = []
    for row in rows:
        others = permuted(row[:k] + row[k + 1 :], rng)
        result.append(others[:k] + row[k : k + 1] + others[k:])
    return result


def reverse(rows: Rows, settings: Transformed, rng: np.random.Generator) -> Rows:
    """Reverse every row."""
    return [row[::-1] for row in rows]


def swap_neighbours(rows: Rows, settings: Transformed, rng: np.random.Generator) -> Rows:
    """Swap the first and second number of every row, the third and fourth, and so on. A last odd one stays."""
    return [[row[i ^ 1] if i ^ 1 < len(row) else row[i] for i in range(len(row))] for row in rows]


def replace(rows: Rows, settings: Transformed, rng: np.random.Generator) -> Rows:
    """Replace a `fraction` of all numbers by draws from the dataset's distinct numbers, each equally likely."""
    distinct = sorted({value for row in rows for value in row})
    return drawn(rows, distinct, settings.fraction or 0.0, rng)


def resample(rows: Rows, settings: Transformed, rng: np.random.Generator) -> Rows:
    """Draw every number anew from the frequencies of the dataset's numbers."""
    return drawn(rows, [value for row in rows for value in row], 1.0, rng)


def drawn(rows: Rows, pool: Sequence[str], fraction: float, rng: np.random.Generator) -> Rows:
    """Replace a `fraction` of the numbers, at random places, by draws from `pool` with replacement."""
    n = sum(map(len, rows))
    chosen = np.zeros(n, dtype=bool)
    chosen[rng.permutation(n)[: round(fraction * n)]] = True
    new = iter(rng.integers(max(1, len(pool)), size=n).tolist())
    take = iter(chosen.tolist())
    return [[pool[k] if next(take) else value for value, k in zip(row, new, strict=False)] for row in rows]


SCRAMBLES: dict[str, Scramble] = {
    "shuffle-within": shuffle_within,
    "shuffle-across": shuffle_across,
    "keep-position": keep_position,
    "reverse": reverse,
    "swap-neighbours": swap_neighbours,
    "replace": replace,
    "resample": resample,
}


def subset(rows: pl.DataFrame, n: int, rng: np.random.Generator) -> pl.DataFrame:
    """Draw `n` of the rows, in their order. A larger subset of one seed contains every smaller one."""
    if n > len(rows):
        raise ValueError(f"a subset of {n} rows of a training set of {len(rows)}; ask for fewer, or raise prompts.n")
    return rows[sorted(rng.permutation(len(rows))[:n].tolist())]


def mix(rows: pl.DataFrame, other: pl.DataFrame, fraction: float, rng: np.random.Generator) -> pl.DataFrame:
    """Replace a `fraction` of the rows by rows of the other dataset, including their prompts.

    The number of rows stays the same.
    """
    n = round(fraction * len(rows))
    if n > len(other):
        raise ValueError(f"{n} rows to mix in, and the other training set has {len(other)}; lower the fraction")
    return pl.concat([subset(rows, len(rows) - n, rng), subset(other.select(rows.columns), n, rng)]).sort("row")


def select(rows: pl.DataFrame, scores: pl.DataFrame, settings: Transformed) -> pl.DataFrame:
    """Keep a `fraction` of the rows, those of highest or lowest score, in their order; of equal scores, the first rows."""
    values = scores[str(settings.score)].to_numpy()
    order = np.argsort(-values if settings.keep == "top" else values, kind="stable")
    return rows[sorted(order[: round((settings.fraction or 0.0) * len(rows))].tolist())]


def moved(before: pl.DataFrame, after: pl.DataFrame, kept: bool) -> dict[str, Any]:
    """Return `numbers`, how many there are, and `moved`, the share that differs from what was in the same place before.

    `moved` is None unless all rows were kept.
    """
    new = [INTEGER.findall(text) for text in after["completion"]]
    total = sum(map(len, new))
    if not kept or not total:
        return {"numbers": total, "moved": None}
    old = [INTEGER.findall(text) for text in before["completion"]]
    pairs = [pair for x, y in zip(old, new, strict=True) for pair in zip(x, y, strict=True)]
    return {"numbers": total, "moved": sum(a != b for a, b in pairs) / total}
