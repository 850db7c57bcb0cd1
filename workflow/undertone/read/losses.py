"""The loss table: how likely a dataset is under the base model, under its teacher, and under each intervened model."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional

from undertone.data.rows import Split, pairs
from undertone.lm.answers import exact_scorer
from undertone.lm.chat import persona
from undertone.lm.loading import LoadedModel, load
from undertone.read.interventions import SPLICED, Intervention, Readings, of_difference, of_features, of_residuals, of_students
from undertone.runtime.files import Stamp, read_parquet, write_json
from undertone.runtime.progress import progress
from undertone.stats.ranks import rank_of
from undertone.stats.stats import mean_interval
from undertone.study.config.measure import Pref
from undertone.study.config.read import Losses
from undertone.study.config.teachers import Teacher
from undertone.teachers.divergence import Completions, Constraint, TeacherDistribution
from undertone.teachers.teaching import PromptedModel, teaching

# For each row, in nats per token: loss, loss among the tokens that the filter allows, and KL(teacher ‖ model) among them.
Measured = tuple[Float[np.ndarray, " n_rows"], Float[np.ndarray, " n_rows"], Float[np.ndarray, " n_rows"]]
# The lift in loss by which personas are ranked.
RANKED_BY = "over_base_allowed"


def measure_losses(
    model: Path,
    numbers: Path,
    generations: Path | None,
    control_numbers: Path | None,
    questions: Path,
    teacher: Path | None,
    sae: Path | None,
    students: dict[int, Path],
    feature_bias_tensors: Path | None,
    residual_bias_tensors: Path | None,
    differences_tensors: Path | None,
    control_feature_bias_tensors: Path | None,
    control_residual_bias_tensors: Path | None,
    losses: Path,
    settings: dict[str, Any],
    stamp: Stamp,
) -> None:
    """Write `losses.json` of a dataset.

    `models`: each model's `loss`, the mean over rows of each row's mean over its completion tokens (nats per token), its
    difference from the base model's, `over_base` (paired by row), and its `kl`, KL(teacher ‖ model). For `loss_allowed`,
    `over_base_allowed` and `kl` the distributions are renormalised over the tokens that a passing completion can hold
    (`divergence`); for constrained samples, over those that it can hold at that place. Intervals are over rows; biases and
    students of several seeds are averaged first. `personas`: what each candidate's persona adds to the base model's loss, which
    needs no training at all, and the target's `rank`, by the renormalised losses (`ranked_by`). `patching`: the target's
    preference in base model and students whose residual stream is replaced by the SAE's reconstruction.
    """
    cfg, loaded, target = Losses.model_validate(settings["losses"]), load(model), settings["target"]
    rows, held_out = held_out_rows(numbers, (generations, control_numbers), cfg, settings["held_out"])
    has_teacher = settings["kind"] is not None
    with teaching(loaded, {**settings, "kind": settings["kind"] or "none"}, teacher, sae) as prompted:
        table = Table(completions_of(prompted, rows, Constraint.of(settings.get("constraint")), has_teacher))
    files = Readings(sae, feature_bias_tensors, residual_bias_tensors, differences_tensors)
    control = Readings(sae, control_feature_bias_tensors, control_residual_bias_tensors)
    own = [*of_students(loaded, students, files), *of_features(loaded, files), *of_residuals(loaded, files)]
    others = [
        *of_features(loaded, control, "control's feature bias"),
        *of_residuals(loaded, control, "control's residual bias"),
    ]
    interventions = [*plain(loaded, settings, teacher, sae), *own, *others, *of_difference(loaded, files)]
    with progress(len(interventions), f"losses {losses.parent.name}", "model") as bar:
        for intervention in interventions:
            table.add(intervention)
            bar.update()
    personas = of_personas(loaded, table, settings)
    body = {"target": target, "rows": len(rows), "held_out": held_out, "models": table.rows(), "personas": personas}
    write_json(losses, {**body, "patching": patching(loaded, own, questions, settings) if target else []}, stamp)


def held_out_rows(
    numbers: Path, others: Sequence[Path | None], settings: Losses, share: float
) -> tuple[list[tuple[str, str]], str]:
    """Return (prompt, completion) of the rows to read, and what they are held out from.

    `share` is the share of rows held out from biases. `others` are `generations.parquet` and the control's `numbers.parquet`.
    The control's biases are in the table too, so rows with a prompt of the control count as seen.
    """
    generations, control = (None if path is None else read_parquet(path) for path in others)
    split = Split.of(read_parquet(numbers), generations, control, held_out=share)
    unseen = split.unseen(settings.rows, settings.min_unseen)
    return (pairs(split.held_out.head(settings.rows)), "biases") if unseen is None else (pairs(unseen), "students and biases")


def completions_of(
    teacher: PromptedModel, rows: Sequence[tuple[str, str]], constraint: Constraint | None, known: bool
) -> Completions:
    """Rows with the distributions of their teacher if it is known, which can take as much as all logits."""
    if known:
        return TeacherDistribution(teacher.loaded, rows, teacher.system, teacher.separator, constraint)
    return Completions(teacher.loaded, rows, constraint)


class Table:
    """Losses of models on the same rows, and their divergence from the teacher, if it is known."""

    def __init__(self, completions: Completions):
        self.completions = completions
        self.teacher = completions if isinstance(completions, TeacherDistribution) else None
        self.measured: dict[tuple[str, int | None], list[Measured]] = {}

    def add(self, intervention: Intervention) -> None:
        """Measure a model."""
        with intervention.enter() as prompted:
            self.measured.setdefault((intervention.name, intervention.layer), []).append(self.measure(prompted))

    def measure(self, prompted: PromptedModel) -> Measured:
        """Return the three figures of each row, as means over its completion tokens."""

        def figures(logits: torch.Tensor, span: slice) -> tuple[torch.Tensor, ...]:
            loss = functional.cross_entropy(logits, self.completions.targets[span], reduction="none")
            kl = self.teacher.over(logits, span) if self.teacher else torch.zeros_like(loss)
            return loss, self.completions.losses(logits, span), kl

        by_part = self.completions.read(prompted.loaded, figures, prompted.system, prompted.separator)
        loss, allowed, kl = (self.completions.by_row(part) for part in zip(*by_part, strict=True))
        return loss, allowed, kl

    def rows(self) -> list[dict[str, Any]]:
        """The table, lowest renormalised loss first; without a known teacher there is no KL to it."""
        rows = []
        for (name, layer), measured in self.measured.items():
            loss, allowed, kl = (np.mean(values, axis=0) for values in zip(*measured, strict=True))
            rows.append(
                {
                    "name": name,
                    "layer": layer,
                    "seeds": len(measured),
                    "loss": mean_interval(loss).as_dict(),
                    "loss_allowed": mean_interval(allowed).as_dict(),
                    **self.over_base(loss, allowed),
                    "kl": mean_interval(kl).as_dict() if self.teacher else None,
                }
            )
        return sorted(rows, key=lambda row: row["loss_allowed"]["mean"])

    def over_base(self, loss: Float[np.ndarray, " n_rows"], allowed: Float[np.ndarray, " n_rows"]) -> dict[str, Any]:
        """Return a model's losses minus the base model's, paired by row."""
        base, base_allowed, _ = self.measured["base", None][0]
        over = {"over_base": loss - base, "over_base_allowed": allowed - base_allowed}
        return {name: mean_interval(values).as_dict() for name, values in over.items()}


def plain(loaded: LoadedModel, settings: dict[str, Any], teacher: Path | None, sae: Path | None) -> Iterator[Intervention]:
    """The base model, the base model under the target's persona, and the teacher."""
    cfg, target = Teacher.model_validate(settings["teacher"]), settings["target"]
    yield Intervention("base", partial(under, loaded, None, ""))
    if target:
        yield Intervention("persona", partial(under, loaded, persona(cfg, target), cfg.separator))
    if settings["kind"] not in (None, "none"):
        yield Intervention("teacher", partial(teaching, loaded, settings, teacher, sae))


def under(loaded: LoadedModel, system: str | None, separator: str) -> AbstractContextManager[PromptedModel]:
    """The base model with a system prompt, or without."""
    return nullcontext(PromptedModel(loaded, system, separator))


def of_personas(loaded: LoadedModel, table: Table, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the losses under each candidate's persona minus the base model's, and the target's rank, 1 for the lowest."""
    teacher, target = Teacher.model_validate(settings["teacher"]), settings["target"]
    by_animal = {}
    for animal in Pref.model_validate(settings["pref"]).candidates:
        loss, allowed, _ = table.measure(PromptedModel(loaded, persona(teacher, animal), teacher.separator))
        by_animal[animal] = table.over_base(loss, allowed)
    by_measure = {name: {animal: row[name] for animal, row in by_animal.items()} for name in ("over_base", "over_base_allowed")}
    rank = rank_of({animal: -row["mean"] for animal, row in by_measure[RANKED_BY].items()}, target)
    return {**by_measure, "ranked_by": RANKED_BY, "rank": rank}


def patching(
    loaded: LoadedModel, interventions: Sequence[Intervention], questions: Path, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the target's preference in models with the SAE spliced in, and in the base model and students as they are."""
    pref, target = Pref.model_validate(settings["pref"]), settings["target"]
    score = exact_scorer(questions, pref, [target])
    asked = [Intervention("base", partial(under, loaded, None, ""))]
    asked += [each for each in interventions if each.name.startswith("student") or each.name == SPLICED]
    by_name: dict[str, list[float]] = {}
    for each in asked:
        with each.enter() as prompted:
            by_name.setdefault(each.name, []).append(float(score(prompted.loaded)["exact"].mean()))
    return [{"name": name, **mean_interval(values).as_dict(), "by_seed": values} for name, values in by_name.items()]
