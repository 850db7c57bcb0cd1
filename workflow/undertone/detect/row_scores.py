"""Scores of single rows: how strongly each row of a dataset shows what distinguishes the dataset from base samples.

The scores can clean a mixture of a teacher's rows and others, and the rows of the highest scores show what a detector responds
to. A high score is no proof that a teacher wrote a row: scores vary between rows even if nothing is hidden. Two scores are for
comparison: `difficulty` knows of nothing hidden, `target` knows what to look for.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from undertone.detect.gradient import differences
from undertone.detect.pairs import Whitened
from undertone.detect.sets import MIN_PAIRS, Pairs, sets_of
from undertone.detect.short_training import adapted
from undertone.lm.chat import persona, training_rows
from undertone.lm.loading import LoadedModel, load
from undertone.lm.training import train
from undertone.read.score import gradients
from undertone.runtime.files import Stamp, read_json, read_parquet, remove, write_parquet
from undertone.students.student import recipe
from undertone.study.config.detect import Detectors, ShortTraining
from undertone.study.config.read import Score
from undertone.study.config.students import Student
from undertone.study.config.teachers import Teacher
from undertone.teachers.divergence import Completions, Constraint

HALVES = (0, 1)


def score_rows(
    model: Path,
    numbers: Path,
    matched: Path,
    personas: Path,
    row_scores: Path,
    detectors: Detectors,
    short: ShortTraining,
    student: Student,
    teacher: Teacher,
    settings: dict[str, Any],
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Write `row_scores.parquet`: the training set's `row`, `prompt` and `completion`, and scores of each row.

    All scores are in nats per token. `difficulty` is the base model's loss, `personas` the gain of the best system prompt that
    was found, `short_training` the gain of a student trained briefly on the dataset over one trained on base samples, and
    `gradient` the row's gradient along the natural step towards the dataset. For the last two the dataset is split into halves
    by prompt, and each half is scored with what the other half gave. If the dataset has a target, `target` is the gain of a
    prompted teacher's system prompt. `settings` hold the `target`, and the study's `constraint` if sampling is constrained.
    Raises ValueError if too few rows have base samples.
    """
    table = read_parquet(numbers)
    pairs = next((pairs for _, pairs in sets_of(matched, detectors.rows)), Pairs([], [], []))
    halves = Halves.of(table["prompt"].to_list(), pairs, detectors.seed)
    loaded = load(model)
    rows = Rows(loaded, table, Constraint.of(settings.get("constraint")))
    base, wording = rows.loss(), persona(teacher, settings["target"])
    best = read_json(personas)["sets"][0]["best"]["prompt"]
    scores = {
        "difficulty": base,
        "personas": base - rows.loss(best, teacher.separator),
        "gradient": along_steps(loaded, rows, halves, detectors),
        "short_training": trained(loaded, rows, halves, short, student, scratch),
        **({"target": base - rows.loss(wording, teacher.separator)} if wording else {}),
    }
    write_parquet(row_scores, table.select("row", "prompt", "completion").with_columns(**scores), stamp)
    remove(scratch)


class Halves:
    """The halves of a dataset: all rows of a prompt are in one half, and each half has its own pairs."""

    def __init__(self, rows: Int[np.ndarray, " n_rows"], pairs: Sequence[Pairs]):
        self.rows, self.pairs = rows, pairs

    @classmethod
    def of(cls, prompts: Sequence[str], pairs: Pairs, seed: int) -> "Halves":
        """Split prompts at random. Raises ValueError if a half has too few pairs."""
        distinct = sorted({*prompts, *pairs.prompts})
        half = dict(zip(distinct, np.random.default_rng(seed).permutation(len(distinct)) % 2, strict=True))
        parts = [chosen(pairs, np.array([half[prompt] == k for prompt in pairs.prompts], dtype=bool)) for k in HALVES]
        if (fewest := min(len(part.own) for part in parts)) < MIN_PAIRS:
            raise ValueError(f"half of the dataset has {fewest} rows with a base sample beside them; scores need {MIN_PAIRS}")
        return cls(np.array([half[prompt] for prompt in prompts]), parts)

    def scored_by_other(self) -> Iterator[tuple[Int[np.ndarray, " n_own"], Pairs]]:
        """Yield for each half the places of its rows, and the pairs of the other half."""
        for k in HALVES:
            yield np.flatnonzero(self.rows == k), self.pairs[1 - k]


def chosen(pairs: Pairs, which: Bool[np.ndarray, " n"]) -> Pairs:
    """Return the pairs that `which` selects."""
    prompts, own, base = (
        [text for text, kept in zip(texts, which, strict=True) if kept] for texts in (pairs.prompts, pairs.own, pairs.base)
    )
    return Pairs(prompts, own, base)


class Rows:
    """A training set and the losses of a model on it; rows of similar length are read together."""

    def __init__(self, loaded: LoadedModel, table: pl.DataFrame, constraint: Constraint | None):
        self.loaded, self.table, self.constraint = loaded, table, constraint
        self.prompts, self.texts = table["prompt"].to_list(), table["completion"].to_list()
        lengths = [len(prompt) + len(text) for prompt, text in zip(self.prompts, self.texts, strict=True)]
        self.order = np.argsort(lengths, kind="stable")
        rows = [(self.prompts[k], self.texts[k]) for k in self.order]
        self.completions = Completions(loaded, rows, constraint)

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, places: Int[np.ndarray, " n_part"]) -> "Rows":
        """Return the rows at some places."""
        return Rows(self.loaded, self.table[places], self.constraint)

    def loss(self, system: str | None = None, separator: str = "") -> Float[np.ndarray, " n_rows"]:
        """Return the loss of each row in nats per token, after a system prompt if there is one.

        Probabilities are among the tokens that a passing completion can hold.
        """
        result = np.empty(len(self))
        losses = self.completions.read(self.loaded, self.completions.losses, system, separator)
        result[self.order] = self.completions.by_row(list(losses))
        return result


def along_steps(loaded: LoadedModel, rows: Rows, halves: Halves, settings: Detectors) -> Float[np.ndarray, " n_rows"]:
    """Return each row's gradient along the natural step that the other half's pairs give."""
    score = Score(positions="all", batch_size=settings.batch_size)
    own = gradients(loaded, training_rows(loaded.tokenizer, rows.prompts, rows.texts), score, "gradients of rows")
    by_row = own.transpose(0, 1).flatten(1).double()
    result = np.empty(len(rows))
    for places, pairs in halves.scored_by_other():
        step = Whitened.of(differences(loaded, pairs, settings.batch_size).flatten(1), settings.ridge).step()
        result[places] = (by_row[places] @ step).numpy()
    return result


def trained(
    loaded: LoadedModel, rows: Rows, halves: Halves, short: ShortTraining, student: Student, scratch: Path
) -> Float[np.ndarray, " n_rows"]:
    """Return how much lower each row's loss is for a student of the other half's rows than for one of its base samples."""
    result = np.empty(len(rows))
    for half, (places, pairs) in enumerate(halves.scored_by_other()):
        part, losses = rows.part(places), []
        for name, texts in (("rows", pairs.own), ("samples", pairs.base)):
            with briefly_trained(loaded, pairs.prompts, texts, short, student, scratch / f"{half}-{name}.safetensors"):
                losses.append(part.loss())
        result[places] = losses[1] - losses[0]
    return result


@contextmanager
def briefly_trained(
    loaded: LoadedModel, prompts: Sequence[str], texts: Sequence[str], short: ShortTraining, student: Student, state: Path
) -> Iterator[None]:
    """Make the model, inside the context, a student that was trained on these rows for a few epochs."""
    shorter = recipe(student.model_copy(update={"epochs": short.epochs}), short.seed)
    rows = training_rows(loaded.tokenizer, prompts, texts, student.max_length)
    with adapted(loaded, student, short.seed) as adapter:
        train(adapter, rows, shorter, loaded.pad_id, state, f"short training on {state.stem}")
        remove(state)
        yield
