"""Transfer: the preferences of every dataset's students side by side, and which targets gained on the control students."""

from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl

from undertone.runtime.files import Stamp, read_json, read_parquet, write_json, write_parquet
from undertone.stats.ranks import rank
from undertone.stats.stats import corrected, difference_interval, holm

KEYS = ["seed", "animal", "estimator"]
LEVEL = 0.05  # of Holm-adjusted p-values; with a single comparison it corresponds to the 95 % intervals


def collect(prefs: dict[str, Path], pref_tables: dict[str, Path], transfer_table: Path, transfer: Path, stamp: Stamp) -> None:
    """Write `transfer.parquet` and `transfer.json` from each dataset's `pref.json` and `pref.parquet`."""
    students = all_students(prefs, pref_tables)
    write_parquet(transfer_table, students, stamp)
    write_json(
        transfer,
        {"estimators": {name: summarise(rows) for (name,), rows in students.group_by("estimator", maintain_order=True)}},
        stamp,
    )


def all_students(prefs: dict[str, Path], pref_tables: dict[str, Path]) -> pl.DataFrame:
    """All students: columns `dataset`, `target`, `control`, `seed`, `animal`, `estimator`, `preference` (mean over questions).

    `control` names the dataset that this one is compared with; for the control that is itself.
    """
    frames = []
    for dataset, pref in prefs.items():
        students = read_parquet(pref_tables[dataset]).filter(model="student")
        means = students.group_by(KEYS, maintain_order=True).agg(pl.mean("preference"))
        result = read_json(pref)
        names = {"dataset": pl.lit(dataset), "target": pl.lit(result["target"], dtype=pl.String)}
        names |= {"control": pl.lit(result["against"] or dataset)}
        frames.append(means.select(**names, **{name: pl.col(name) for name in [*KEYS, "preference"]}))
    return pl.concat(frames)


def preferences(students: pl.DataFrame, dataset: str, animal: str) -> list[float]:
    """Return the preference of a dataset's students for an animal, by rising seed."""
    return students.filter(dataset=dataset, animal=animal).sort("seed")["preference"].to_list()


def summarise(students: pl.DataFrame) -> dict[str, Any]:
    """Return, for each dataset with a target, `lift_over_control` of the target, and the cross-animal control.

    `off_target` is the target's preference after training on *another* target's numbers, minus the control students'. Its
    interval is over the other datasets (their means), because students of one dataset share it. `rank` is the place of the
    dataset's own students among the datasets of all targets, 1 if all others prefer the target less. `lift_over_control` has
    Welch's t interval and test over training seeds; `p_holm` is adjusted for the table's comparisons, one for each dataset
    with a target. `targets` counts these datasets, `transfers` those whose interval lies above 0, and `transfers_holm` those
    of them whose `p_holm` is below `LEVEL`; `transferred` and `transferred_holm` name them.
    """
    targets = dict(students.drop_nulls("target").select("dataset", "target").unique(maintain_order=True).iter_rows())
    rows = [beside_control(students, dataset, targets) for dataset in targets]
    for row, lift in zip(rows, corrected([row["lift_over_control"] for row in rows]), strict=True):
        row["lift_over_control"] = lift
    above = [row for row in rows if (ci := row["lift_over_control"]["ci95"]) and ci[0] > 0]
    sure = [row for row in above if row["lift_over_control"]["p_holm"] < LEVEL]
    return {
        "targets": len(rows),
        "transfers": len(above),
        "transferred": [row["dataset"] for row in above],
        "transfers_holm": len(sure),
        "transferred_holm": [row["dataset"] for row in sure],
        "datasets": rows,
    }


def beside_control(students: pl.DataFrame, dataset: str, targets: dict[str, str]) -> dict[str, Any]:
    """A dataset's row of the summary; `targets` are those of all datasets."""
    target = targets[dataset]
    against = students.filter(dataset=dataset)["control"][0]
    own, control = preferences(students, dataset, target), preferences(students, against, target)
    others = [fmean(preferences(students, other, target)) for other, aim in targets.items() if aim != target]
    return {
        "dataset": dataset,
        "target": target,
        "against": against,
        "control": fmean(control),
        "student": fmean(own),
        "seeds": {"student": len(own), "control": len(control)},
        "lift_over_control": difference_interval(own, control),
        "off_target": difference_interval(others, control).as_dict() if others else None,
        "rank": rank([fmean(own), *others], 0) if others else None,
    }


def make_matrix(transfer_table: Path, control_pref_table: Path, preference_matrix: Path, stamp: Stamp) -> None:
    """Write the preference matrix: one row per `dataset`, `animal` and `estimator`.

    `preference` is the mean over students and questions. `lift_over_base` and `lift_over_control` are its differences from the
    base model's and the control students'; `low` and `high` are the 95 % interval of the latter and `p` its test (Welch, over
    training seeds; null with one seed). `p_holm` is adjusted for the comparisons that the study is about, those of each
    dataset's own target, and null elsewhere. `control_pref_table` is the control's `pref.parquet`, which also has the base
    model's scores.
    """
    students = read_parquet(transfer_table)
    base = (
        read_parquet(control_pref_table)
        .filter(model="base")
        .group_by("animal", "estimator", maintain_order=True)
        .agg(base=pl.mean("preference"))
    )
    keys = ["dataset", "target", "control", "animal", "estimator"]
    own = students.group_by(keys, maintain_order=True).agg(seeds=pl.col("preference"), preference=pl.mean("preference"))
    reference = own.select("animal", "estimator", control="dataset", control_seeds="seeds")
    rows = own.join(base, on=["animal", "estimator"], how="left", maintain_order="left")
    rows = rows.join(reference, on=["control", "animal", "estimator"], how="left", maintain_order="left")
    lifts = [difference_interval(row["seeds"], row["control_seeds"]) for row in rows.iter_rows(named=True)]
    columns: dict[str, list[float | None]] = {
        "lift_over_control": [lift.mean for lift in lifts],
        "low": [lift.ci95[0] if lift.ci95 else None for lift in lifts],
        "high": [lift.ci95[1] if lift.ci95 else None for lift in lifts],
        "p": [lift.p for lift in lifts],
    }
    rows = rows.with_columns(
        lift_over_base=pl.col("preference") - pl.col("base"),
        **{name: pl.Series(values, dtype=pl.Float64) for name, values in columns.items()},
    )
    write_parquet(preference_matrix, with_holm(rows).drop("seeds", "control_seeds", "base"), stamp)


def with_holm(rows: pl.DataFrame) -> pl.DataFrame:
    """Add `p_holm` to the matrix: `p` of each dataset's own target, adjusted for all of these of the same estimator."""
    own = rows.filter(pl.col("target") == pl.col("animal")).select("dataset", "animal", "estimator", "p")
    parts = [
        part.with_columns(p_holm=pl.Series(holm(part["p"].to_list()), dtype=pl.Float64))
        for part in own.partition_by("estimator")
    ]
    keys = ["dataset", "animal", "estimator"]
    adjusted = pl.concat([own.clear().with_columns(p_holm=pl.lit(None, pl.Float64)), *parts])
    return rows.join(adjusted.drop("p"), on=keys, how="left", maintain_order="left")
