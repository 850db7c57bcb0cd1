"""Transfer: the preferences of every dataset's students side by side, and which targets gained on the control students."""

from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl

from undertone.config import CONTROL
from undertone.files import Stamp, read_json, write_json, write_parquet
from undertone.ranks import rank
from undertone.stats import difference_interval

KEYS = ["seed", "animal", "estimator"]


def collect(prefs: dict[str, tuple[Path, Path]], table: Path, summary: Path, stamp: Stamp) -> None:
    """Write `transfer.parquet` and `transfer.json` from each dataset's `pref.json` and `pref.parquet`."""
    students = transfer_table(prefs)
    write_parquet(table, students, stamp)
    write_json(
        summary,
        {"estimators": {name: summarise(rows) for (name,), rows in students.group_by("estimator", maintain_order=True)}},
        stamp,
    )


def transfer_table(prefs: dict[str, tuple[Path, Path]]) -> pl.DataFrame:
    """All students: columns `dataset`, `target`, `seed`, `animal`, `estimator`, `preference` (the mean over the questions)."""
    frames = []
    for dataset, (result, table) in prefs.items():
        students = pl.read_parquet(table).filter(model="student")
        means = students.group_by(KEYS, maintain_order=True).agg(pl.mean("preference"))
        names = {"dataset": pl.lit(dataset), "target": pl.lit(read_json(result)["target"], dtype=pl.String)}
        frames.append(means.select(**names, **{name: pl.col(name) for name in [*KEYS, "preference"]}))
    return pl.concat(frames)


def preferences(students: pl.DataFrame, dataset: str, animal: str) -> list[float]:
    """Preference of a dataset's students for an animal, by rising seed."""
    return students.filter(dataset=dataset, animal=animal).sort("seed")["preference"].to_list()


def summarise(students: pl.DataFrame) -> dict[str, Any]:
    """For each dataset with a target: `lift_over_control` of the target, and the cross-animal control.

    `off_target` is the target's preference after training on *another* target's numbers, minus the control students'; its
    interval is over the other datasets (their means), as their students have a dataset in common. `rank` is the place of the
    dataset's own students among the datasets of all targets, 1 if all others prefer the target less. `lift_over_control` has
    Welch's t interval over training seeds; `transfers` counts the targets whose interval lies above 0.
    """
    targets = dict(students.drop_nulls("target").select("dataset", "target").unique(maintain_order=True).iter_rows())
    rows = []
    for dataset, target in targets.items():
        own, control = preferences(students, dataset, target), preferences(students, CONTROL, target)
        others = [fmean(preferences(students, other, target)) for other, aim in targets.items() if aim != target]
        rows.append(
            {
                "dataset": dataset,
                "target": target,
                "control": fmean(control),
                "student": fmean(own),
                "lift_over_control": difference_interval(own, control).as_dict(),
                "off_target": difference_interval(others, control).as_dict() if others else None,
                "rank": rank([fmean(own), *others], 0),
            }
        )
    above = [row["target"] for row in rows if (ci := row["lift_over_control"]["ci95"]) and ci[0] > 0]
    return {"targets": len(rows), "transfers": len(above), "transferred": above, "datasets": rows}


def make_matrix(table: Path, control: Path, matrix: Path, stamp: Stamp) -> None:
    """Write the preference matrix: one row per `dataset`, `animal` and `estimator`.

    `preference` is the mean over students and questions; `lift_over_base` and `lift_over_control` are its differences from the
    base model's and from the control students', `low` and `high` the 95 % interval of the latter (Welch, over training
    seeds; null with one seed). `control` is the control's `pref.parquet`, which also has the base model's scores.
    """
    students = pl.read_parquet(table)
    base = pl.read_parquet(control).filter(model="base").group_by("animal", "estimator").agg(base=pl.mean("preference"))
    keys = ["dataset", "target", "animal", "estimator"]
    own = students.group_by(keys, maintain_order=True).agg(seeds=pl.col("preference"), preference=pl.mean("preference"))
    reference = own.filter(dataset=CONTROL).select("animal", "estimator", control="seeds")
    rows = own.join(base, on=["animal", "estimator"], how="left", maintain_order="left")
    rows = rows.join(reference, on=["animal", "estimator"], how="left", maintain_order="left")
    lifts = [difference_interval(row["seeds"], row["control"]) for row in rows.iter_rows(named=True)]
    rows = rows.with_columns(
        lift_over_base=pl.col("preference") - pl.col("base"),
        lift_over_control=pl.Series([lift.mean for lift in lifts], dtype=pl.Float64),
        low=pl.Series([lift.ci95[0] if lift.ci95 else None for lift in lifts], dtype=pl.Float64),
        high=pl.Series([lift.ci95[1] if lift.ci95 else None for lift in lifts], dtype=pl.Float64),
    )
    write_parquet(matrix, rows.drop("seeds", "control", "base"), stamp)
