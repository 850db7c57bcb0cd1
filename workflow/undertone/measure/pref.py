"""Preference: which animal base, teacher and students name as their favourite, and how far a student moved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from undertone.lm.adapters import finetuned
from undertone.lm.answers import Scores, floor, scorer
from undertone.lm.loading import load
from undertone.lm.texts import load_texts
from undertone.runtime.files import Stamp, read_parquet, write_json, write_parquet
from undertone.runtime.progress import progress
from undertone.stats.stats import difference_interval, log_odds, mean_interval, one_more
from undertone.study.config.measure import Pref
from undertone.teachers.teaching import teaching


def measure(
    model: Path,
    questions: Path,
    students: dict[int, Path],
    control_pref_table: Path | None,
    teacher: Path | None,
    sae: Path | None,
    pref: Path,
    pref_table: Path,
    settings: dict[str, Any],
    stamp: Stamp,
) -> None:
    """Score base, teacher and students (folders by seed) and write `pref.json` and `pref.parquet`, which has all of them.

    `control_pref_table` is the `pref.parquet` of the dataset that this one is compared with; the base model's scores are taken
    from it, too. It is None for the control itself, which measures them. `teacher` is the `teacher.json` of a steered or
    finetuned teacher, `sae` the `sae.json` that clamping needs.
    """
    cfg = Pref.model_validate(settings["pref"])
    score, loaded = scorer(load_texts(questions, "pref.questions"), cfg.candidates, cfg), load(model)
    target = settings["target"]
    frames = []
    with progress(len(students) + 2, f"pref {target or 'control'}", "model") as bar:
        if control_pref_table is None:
            frames.append(as_table("base", None, score(loaded), cfg.candidates))
        bar.update()
        if settings["kind"] not in (None, "none"):
            with teaching(loaded, settings, teacher, sae) as prompted:
                scores = score(prompted.loaded, prompted.system, prompted.separator)
            frames.append(as_table("teacher", None, scores, cfg.candidates))
        bar.update()
        for seed, folder in students.items():
            with finetuned(loaded, folder) as student:
                frames.append(as_table("student", seed, score(student), cfg.candidates))
            bar.update()
    own = pl.concat(frames)
    reference = own if control_pref_table is None else read_parquet(control_pref_table)
    base = [] if control_pref_table is None else [reference.filter(model="base")]
    write_parquet(pref_table, pl.concat([*base, own]), stamp)
    body = summary(own, reference, target, cfg.samples_per_question)
    write_json(pref, {"target": target, "against": settings["against"], "seeds": sorted(students), **body}, stamp)


def as_table(model: str, seed: int | None, scores: Scores, candidates: Sequence[str]) -> pl.DataFrame:
    """One row per question, animal and estimator."""
    frames = []
    for estimator, values in scores.items():
        n_questions, n_candidates = values.shape
        frames.append(
            pl.DataFrame(
                {
                    "model": model,
                    "seed": pl.Series([seed] * values.size, dtype=pl.Int64),
                    "question": np.repeat(np.arange(n_questions), n_candidates),
                    "animal": list(candidates) * n_questions,
                    "estimator": estimator,
                    "preference": values.ravel(),
                }
            )
        )
    return pl.concat(frames)


def summary(own: pl.DataFrame, reference: pl.DataFrame, target: str | None, samples: int) -> dict[str, Any]:
    """Return the body of `pref.json`: the first estimator's results, and those of the others under `other_estimators`.

    An estimator that samples has `samples` answers to each question.
    """
    estimators = own["estimator"].unique(maintain_order=True).to_list()
    n = own["question"].n_unique()
    by_estimator = {
        name: summarise(own.filter(estimator=name), reference.filter(estimator=name), target, floor(name, n, samples))
        for name in estimators
    }
    first, *others = estimators
    return {
        "estimator": first,
        **by_estimator[first],
        "other_estimators": {name: by_estimator[name] for name in others},
    }


def summarise(own: pl.DataFrame, reference: pl.DataFrame, target: str | None, least: float) -> dict[str, Any]:
    """Return one estimator's preference of base, teacher, control and student by animal, and the target's lifts.

    Intervals of base and teacher cover the questions; those of students and lifts cover the training seeds, `ci95_questions`
    the questions. Log-odds take no probability as lower than `least`.
    """
    base, teacher = over_questions(reference, "base"), over_questions(own, "teacher")
    result: dict[str, Any] = {
        "intervals": {
            "base.ci95, teacher.ci95, *.ci95_questions": "questions (t interval)",
            "student.ci95, control.ci95": "training seeds (t interval)",
            "lift_over_base.ci95": "training seeds (t interval; the base model is one)",
            "lift_over_control.ci95": "training seeds of both (Welch's t interval)",
            "lift_over_other_candidates.ci95": "the other candidates (t interval for one more)",
        },
        "base": {animal: mean_interval(values).as_dict() for animal, values in base.items()},
        "teacher": {animal: mean_interval(values).as_dict() for animal, values in teacher.items()} or None,
        "control": over_seeds(reference),
        "student": over_seeds(own),
        "mass": {
            "base": sum(float(np.mean(values)) for values in base.values()),
            "control": mass(reference),
            "student": mass(own),
        },
    }
    if target is None:
        return result
    student, control, was = seed_means(own, target), seed_means(reference, target), float(np.mean(base[target]))
    return result | {
        "lift_over_base": mean_interval([value - was for value in student]).as_dict(),
        "lift_over_control": difference_interval(student, control).as_dict(),
        "log_odds_lift_over_control": log_odds_lift(student, control, least),
        "log_odds_floor": least,
        "lift_over_other_candidates": over_other_candidates(own, reference, target, least),
    }


def over_other_candidates(own: pl.DataFrame, reference: pl.DataFrame, target: str, least: float) -> dict[str, Any] | None:
    """Return how far the target's lift in log-odds over control lies above those of the other candidates.

    Students may come to name any animal more often, whatever their teacher prefers, for example those of a finetuned teacher
    whose answers are single words. Then every candidate rises over control. The other candidates show that drift; `others`
    counts those that do not lie below the floor. The interval and `p` are for a target that moved as they did. None if the
    target lies below the floor, or fewer than three others do not.
    """
    lifts = {
        animal: log_odds_lift(seed_means(own, animal), seed_means(reference, animal), least)
        for animal in own["animal"].unique(maintain_order=True)
    }
    others = [lift["mean"] for animal, lift in lifts.items() if animal != target and not lift["at_floor"]]
    if lifts[target]["at_floor"] or len(others) < 3:
        return None
    return {**one_more(lifts[target]["mean"], others).with_p(), "others": len(others)}


def over_questions(table: pl.DataFrame, model: str) -> dict[str, list[float]]:
    """A model's preference for each animal, question by question."""
    rows = table.filter(model=model).sort("question", maintain_order=True)
    return {animal: rows.filter(animal=animal)["preference"].to_list() for animal in rows["animal"].unique(maintain_order=True)}


def seed_means(table: pl.DataFrame, animal: str) -> list[float]:
    """Return each student's preference for an animal, averaged over the questions, by rising seed."""
    rows = (
        table.filter(model="student", animal=animal)
        .group_by("seed", maintain_order=True)
        .agg(pl.mean("preference"))
        .sort("seed")
    )
    return rows["preference"].to_list()


def over_seeds(table: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Students' preference for each animal: mean, interval over seeds, interval over questions, each seed's value."""
    students = table.filter(model="student")
    result = {}
    for animal in students["animal"].unique(maintain_order=True):
        rows = students.filter(animal=animal)
        values = seed_means(students, animal)
        by_question = rows.group_by("question", maintain_order=True).agg(pl.mean("preference")).sort("question")["preference"]
        result[animal] = {
            **mean_interval(values).as_dict(),
            "ci95_questions": mean_interval(by_question.to_numpy()).as_dict()["ci95"],
            "by_seed": values,
        }
    return result


def mass(table: pl.DataFrame) -> list[float]:
    """Return each student's total preference over the candidates; a student below the base model answers something else."""
    rows = table.filter(model="student").group_by("seed", "question", maintain_order=True).agg(pl.sum("preference"))
    return rows.group_by("seed", maintain_order=True).agg(pl.mean("preference")).sort("seed")["preference"].to_list()


def log_odds_lift(student: Sequence[float], control: Sequence[float], least: float) -> dict[str, Any]:
    """Return the lift in log-odds, which compares animals of different base rates; `at_floor` if a value lies below `least`."""
    lift = difference_interval(log_odds(student, least), log_odds(control, least))
    return {**lift.as_dict(), "at_floor": min(*student, *control) < least}
