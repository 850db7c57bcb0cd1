"""Who sees which rows of a dataset: students, biases, and measurements on rows that students or biases have not seen.

Rows are tables with the columns `prompt` and `completion`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import polars as pl

from undertone.lm.chat import Row, answer_ids, joined, prompt_ids
from undertone.lm.loading import LoadedModel

# All biases of a dataset and its loss table share one split, so that they hold out the same rows. Any seed would do.
SPLIT_SEED = 20


@dataclass(frozen=True)
class Split:
    """A dataset's rows by who has seen them.

    `students` is the training set; a student is trained on all of it or on a draw of its own. `biases` is the training set in
    random order without `held_out`; biases are trained on parts of it. The rows held out for a smaller share are also held out
    for a larger one. `passed` are the generations that pass the filter, and `left_over` those of them that are in no training
    set; both are empty if the generations are not known.
    """

    students: pl.DataFrame
    biases: pl.DataFrame
    held_out: pl.DataFrame
    passed: pl.DataFrame
    left_over: pl.DataFrame

    @classmethod
    def of(
        cls,
        numbers: pl.DataFrame,
        generations: pl.DataFrame | None = None,
        control: pl.DataFrame | None = None,
        *,
        held_out: float = 0.0,
    ) -> "Split":
        """Split a training set `numbers`, holding out a share `held_out` that no bias is trained on.

        `generations` also has the columns `row` and `verdict`. With `control`, the control's training set, its prompts count as
        seen, because the control's students had them with completions of their own.
        """
        order = np.random.default_rng(SPLIT_SEED).permutation(len(numbers))
        n = len(numbers) - int(held_out * len(numbers))
        passed = numbers.clear() if generations is None else generations.filter(verdict="pass")
        left_over = passed.join(numbers, on="row", how="anti", maintain_order="left") if len(passed) else passed
        if control is not None:
            left_over = left_over.join(control, on="prompt", how="anti", maintain_order="left")
        return cls(numbers, numbers[order[:n]], numbers[order[n:]], passed, left_over)

    def of_biases(self, fraction: float, n_draws: int) -> list[pl.DataFrame]:
        """Return the rows of each draw: a `fraction` of the training set, or fewer if there are not enough.

        Draws are consecutive slices of one permutation. Biases of different seeds thus see independent rows, and an interval
        over seeds covers the choice of rows.
        """
        n = min(round(fraction * len(self.students)), len(self.biases) // n_draws)
        return [self.biases.slice(k * n, n) for k in range(n_draws)]

    def unseen(self, n: int, least: int) -> pl.DataFrame | None:
        """Return up to `n` rows of `left_over`, or None if it has fewer than `least` of them."""
        return self.left_over.head(n) if len(self.left_over) >= min(n, least) else None


def first(numbers: pl.DataFrame, n: int | None) -> pl.DataFrame:
    """Return the first `n` rows of a training set, or all of it. Raises ValueError if it is empty."""
    if numbers.is_empty():
        raise ValueError("the training set holds no row; expected at least one")
    return numbers if n is None else numbers.head(n)


def drawn(numbers: pl.DataFrame, n: int | None, seed: int) -> pl.DataFrame:
    """Return `n` random rows of a training set, in their order, or all of it.

    A student's larger draw contains its smaller ones.
    """
    if n is None:
        return numbers
    if n > len(numbers):
        raise ValueError(f"student.rows {n}: the training set has {len(numbers)} rows; ask for fewer, or raise prompts.n")
    order = numbers.with_row_index("place").sample(fraction=1.0, shuffle=True, seed=seed)
    return order.head(n).sort("place").drop("place")


def halves(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split rows in two by a hash of the prompt: all rows of a prompt, in whatever dataset, are in the same half."""
    odd = pl.Series([crc32(prompt.encode()) % 2 == 1 for prompt in rows["prompt"]], dtype=pl.Boolean)
    return rows.filter(odd), rows.filter(~odd)


def every_second(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return every second row, and the others."""
    return rows.gather_every(2), rows.gather_every(2, offset=1)


def texts(rows: pl.DataFrame) -> tuple[Sequence[str], Sequence[str]]:
    """Return the prompts and the completions."""
    return rows["prompt"].to_list(), rows["completion"].to_list()


def pairs(rows: pl.DataFrame) -> list[tuple[str, str]]:
    """Return (prompt, completion) of each row."""
    return list(zip(*texts(rows), strict=True))


def dataset_rows(loaded: LoadedModel, table: pl.DataFrame, persona: str | None = None, separator: str = "") -> list[Row]:
    """Encode a training set as rows of prompt and completion, without end of turn, under a persona if there is one."""
    users, completions = texts(table)
    return joined(prompt_ids(loaded.tokenizer, users, persona, separator), answer_ids(loaded.tokenizer, completions))
