"""The loss table: how likely a dataset is under the base model, under its teacher, and under each intervened model."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch.nn import functional

from undertone.answers import scorer
from undertone.biases import split
from undertone.config import Losses, Pref, Teacher
from undertone.diagnosis import rows_to_read
from undertone.divergence import TeacherDistribution
from undertone.files import Stamp, write_json
from undertone.interventions import Intervention, Readings, of_difference, of_features, of_residuals, of_students
from undertone.loading import Loaded, load
from undertone.progress import progress
from undertone.ranks import place
from undertone.stats import mean_interval
from undertone.teachers import Lesson, persona, teaching
from undertone.texts import load_texts

Measured = tuple[np.ndarray, np.ndarray]  # loss and KL(teacher ‖ model) of each row, nats per token


def measure_losses(
    record: Path,
    tables: tuple[Path, Path | None],
    teacher: tuple[Path | None, Path | None],
    students: dict[int, Path],
    files: Readings,
    control: Readings,
    result: Path,
    settings: dict[str, Any],
    stamp: Stamp,
) -> None:
    """Write `losses.json` of a dataset.

    `models`: for each model its `loss`, the mean over rows of each row's mean over its completion tokens (nats per token), what
    that is `over_base` (paired by row), and its `kl`, KL(teacher ‖ model) among the tokens that a passing completion can hold.
    Intervals are over rows; biases and students of several seeds are averaged first. `personas`: what each candidate's persona
    adds to the base model's loss, which needs no training at all. `patching`: the target's preference of base model and
    students with the SAE's reconstruction in the place of the residual stream. `tables` holds the dataset's `numbers` and, if
    it has them, `generations`; `control` the control's biases.
    """
    told, loaded, target = Losses.model_validate(settings["losses"]), load(record), settings["target"]
    rows, held_out = held_out_rows(*tables, told.rows)
    taught = settings["kind"] is not None
    with teaching(loaded, {**settings, "kind": settings["kind"] or "none"}, *teacher) as lesson:
        table = Table(lesson, rows)
    own = [*of_students(loaded, students, files), *of_features(loaded, files), *of_residuals(loaded, files)]
    others = [
        *of_features(loaded, control, "control's feature bias"),
        *of_residuals(loaded, control, "control's residual bias"),
    ]
    found = [*plain(loaded, settings, teacher), *own, *others, *of_difference(loaded, files)]
    with progress(len(found), f"losses {result.parent.name}", "model") as bar:
        for intervention in found:
            table.add(intervention)
            bar.update()
    personas = of_personas(loaded, table, settings)
    body = {"target": target, "rows": len(rows), "held_out": held_out, "models": table.rows(taught), "personas": personas}
    write_json(result, {**body, "patching": patching(loaded, own, settings) if target else []}, stamp)


def held_out_rows(numbers: Path, generations: Path | None, n: int) -> tuple[list[tuple[str, str]], str]:
    """(prompt, completion) of up to `n` rows, and of what they are held out."""
    table = pl.read_parquet(numbers)
    if generations is not None:
        rows, unseen = rows_to_read(pl.read_parquet(generations), table, n)
        if unseen:
            return rows, "students and biases"
    _, held_out = split(len(table))
    return list(table[held_out[:n].tolist()].select("prompt", "completion").iter_rows()), "biases"


class Table:
    """Losses of models on the same rows, and their divergence from the teacher."""

    def __init__(self, teacher: Lesson, rows: Sequence[tuple[str, str]]):
        self.taught = TeacherDistribution(teacher.loaded, rows, teacher.system, teacher.separator)
        self.found: dict[tuple[str, int | None], list[Measured]] = {}

    def add(self, intervention: Intervention) -> None:
        """Measure a model."""
        with intervention.enter() as lesson:
            self.found.setdefault((intervention.name, intervention.layer), []).append(self.measure(lesson))

    def measure(self, lesson: Lesson) -> Measured:
        """Loss and KL(teacher ‖ model) of each row `[n_rows]`, the means over its completion tokens, in nats."""

        def figures(logits: torch.Tensor, places: slice) -> tuple[torch.Tensor, torch.Tensor]:
            loss = functional.cross_entropy(logits, self.taught.targets[places], reduction="none")
            return loss, self.taught.over(logits, places)

        found = self.taught.read(lesson.loaded, figures, lesson.system, lesson.separator)
        losses, divergences = zip(*found, strict=True)
        return self.taught.by_row(losses), self.taught.by_row(divergences)

    def rows(self, taught: bool) -> list[dict[str, Any]]:
        """The table, lowest loss first; without a known teacher there is no KL to it."""
        base = self.found["base", None][0][0]
        told = []
        for (name, layer), measured in self.found.items():
            loss, kl = (np.mean(values, axis=0) for values in zip(*measured, strict=True))
            told.append(
                {
                    "name": name,
                    "layer": layer,
                    "seeds": len(measured),
                    "loss": mean_interval(loss).as_dict(),
                    "over_base": mean_interval(loss - base).as_dict(),
                    "kl": mean_interval(kl).as_dict() if taught else None,
                }
            )
        return sorted(told, key=lambda row: row["loss"]["mean"])


def plain(loaded: Loaded, settings: dict[str, Any], teacher: tuple[Path | None, Path | None]) -> Iterator[Intervention]:
    """The base model, the base model under the target's persona, and the teacher."""
    told, target = Teacher.model_validate(settings["teacher"]), settings["target"]
    yield Intervention("base", partial(under, loaded, None, ""))
    if target:
        yield Intervention("persona", partial(under, loaded, persona(told, target), told.separator))
    if settings["kind"] not in (None, "none"):
        yield Intervention("teacher", partial(teaching, loaded, settings, *teacher))


def under(loaded: Loaded, system: str | None, separator: str) -> AbstractContextManager[Lesson]:
    """The base model with a system prompt, or without."""
    return nullcontext(Lesson(loaded, system, separator))


def of_personas(loaded: Loaded, table: Table, settings: dict[str, Any]) -> dict[str, Any]:
    """By candidate, the loss under its persona minus the base model's, paired by row; the target's rank, 1 for the lowest."""
    told, target = Teacher.model_validate(settings["teacher"]), settings["target"]
    base = table.found["base", None][0][0]
    gains: dict[str, Any] = {}
    for animal in Pref.model_validate(settings["pref"]).candidates:
        loss, _ = table.measure(Lesson(loaded, persona(told, animal), told.separator))
        gains[animal] = mean_interval(loss - base).as_dict()
    return {"over_base": gains, "rank": place({animal: -row["mean"] for animal, row in gains.items()}, target)}


def patching(loaded: Loaded, found: Sequence[Intervention], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The target's preference of the models in which the SAE stands for the residual stream, and of those as they are."""
    told, target = Pref.model_validate(settings["pref"]), settings["target"]
    score = scorer(
        load_texts(Path(told.questions), "pref.questions"), [target], told.model_copy(update={"estimators": ["exact"]})
    )
    asked = [Intervention("base", partial(under, loaded, None, ""))]
    asked += [each for each in found if each.name.startswith("student") or each.name == "SAE spliced in"]
    by_name: dict[str, list[float]] = {}
    for each in asked:
        with each.enter() as lesson:
            by_name.setdefault(each.name, []).append(float(score(lesson.loaded)["exact"].mean()))
    return [{"name": name, **mean_interval(values).as_dict(), "by_seed": values} for name, values in by_name.items()]
