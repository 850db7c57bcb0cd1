"""What the finished jobs of a study took: time, GPU-hours and memory by rule and dataset, from their benchmark records."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from undertone.runtime.files import Stamp, write_json, write_parquet
from undertone.study.paths import finished_jobs

HOUR = 3600.0  # seconds
JOB = {
    "rule": pl.String,
    "dataset": pl.String,
    "wall_s": pl.Float64,
    "cpu_s": pl.Float64,
    "gpu_hours": pl.Float64,
    "ram_mb": pl.Float64,
    "gpu_mb": pl.Float64,
    "gpu": pl.String,
}


def add_up(benchmarks: Path, costs_table: Path, costs: Path, stamp: Stamp) -> None:
    """Write `costs.parquet`, one row per rule and dataset, and `costs.json`, one per rule and the total.

    `benchmarks` is the folder of the records `RULE/JOB.jsonl` and `RULE/JOB.used.json`. Records of jobs that ran before both
    were written, or without `benchmark-extended`, name neither their dataset nor their GPU: they are left out and counted.
    Raises ValueError if there is no record that can be used.
    """
    paths = finished_jobs(benchmarks)
    finished = [job for path in paths if (job := read_job(path))]
    if not finished:
        raise ValueError(
            f"found {len(paths)} benchmark records in {benchmarks}, and none with its rule and its use of the machine; run a "
            "part of the study first, with the settings of profiles/default"
        )
    jobs = pl.DataFrame(finished, JOB).sort("rule", "dataset", nulls_last=False, maintain_order=True)
    write_parquet(costs_table, by(jobs, "rule", "dataset"), stamp)
    write_json(costs, {**summarise(jobs), "left_out": len(paths) - len(finished)}, stamp)


def read_job(path: Path) -> dict[str, Any] | None:
    """Return a job's row of `JOB`, or None if its record lacks what a row needs.

    `gpu_hours` is its time multiplied by the GPUs that it asked for, or 0 if it saw none: rules ask for one even where there is
    none. Raises ValueError if a record cannot be read.
    """
    beside = path.with_suffix(".used.json")
    try:
        benchmark = json.loads(path.read_text())
        used = json.loads(beside.read_text()) if beside.exists() else None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} or {beside.name} is no benchmark record ({error}); delete both to leave that job out"
        ) from None
    if used is None or "rule_name" not in benchmark:
        return None
    gpu = used["gpu"] or {"name": None, "peak_mb": None}
    gpus = benchmark["resources"].get("gpu", 0) if used["gpu"] else 0
    return {
        "rule": benchmark["rule_name"],
        "dataset": benchmark["wildcards"].get("dataset"),
        "wall_s": benchmark["s"],
        "cpu_s": used["cpu_s"],
        "gpu_hours": gpus * benchmark["s"] / HOUR,
        "ram_mb": used["ram_mb"],
        "gpu_mb": gpu["peak_mb"],
        "gpu": gpu["name"],
    }


def by(jobs: pl.DataFrame, *keys: str) -> pl.DataFrame:
    """Return number of jobs, sums of `wall_s`, `cpu_s` and `gpu_hours`, greatest `ram_mb` and `gpu_mb`, for each of `keys`."""
    sums = [pl.sum(name) for name in ("wall_s", "cpu_s", "gpu_hours")]
    return jobs.group_by(*keys, maintain_order=True).agg(pl.len().alias("jobs"), *sums, pl.max("ram_mb"), pl.max("gpu_mb"))


def summarise(jobs: pl.DataFrame) -> dict[str, Any]:
    """Return the rules by falling time, with the fastest, median and slowest job; the total; the GPUs' names."""
    spread = jobs.group_by("rule", maintain_order=True).agg(
        fastest_s=pl.min("wall_s"), median_s=pl.median("wall_s"), slowest_s=pl.max("wall_s")
    )
    rules = by(jobs, "rule").join(spread, on="rule").sort("wall_s", descending=True, maintain_order=True)
    total = by(jobs.with_columns(all=pl.lit(True)), "all").drop("all")
    return {
        "total": total.row(0, named=True),
        "gpus": jobs["gpu"].drop_nulls().unique().sort().to_list(),
        "rules": rules.to_dicts(),
    }
