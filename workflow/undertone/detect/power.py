"""How verdicts change with fewer rows of a dataset, and with its rows mixed with base samples."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from undertone.detect.evidence import Nulls, Readings, nulls_of, sets_of
from undertone.detect.verdict import DIFFERENT, judge
from undertone.detect.verdicts import row
from undertone.runtime.files import Stamp, write_json, write_parquet
from undertone.stats.stats import share_interval
from undertone.study.config.detect import Detection, Verdict

Json = dict[str, Any]


def measure_power(
    readings: Sequence[Path],
    mixture_readings: Sequence[Path],
    null_readings: Sequence[Path],
    power_table: Path,
    power: Path,
    targets: dict[str, str],
    kinds: dict[str, str],
    settings: Detection,
    verdict: Verdict,
    stamp: Stamp,
) -> None:
    """Write `power.parquet`, a row for each dataset and set, and `power.json`, counts by number of rows and by share.

    Columns are those of `detection.parquet`, `share` (of rows that are the dataset's), `whole` (whether the set has as many
    rows as are read of the dataset), and `z` of presence. `readings` are those of whole datasets, `mixture_readings` those of
    their parts and mixtures. Raises ValueError if there are no datasets.
    """
    if not targets:
        raise ValueError(
            "no dataset has fewer rows or mixtures to judge: name some under power.datasets, or see config/power.yaml"
        )

    @cache
    def nulls(n_rows: int) -> Nulls:
        return nulls_of(null_readings, n_rows)

    rows = [
        judged(name, each, share, whole, targets[name], kinds[name], nulls(each.rows), settings, verdict)
        for name in targets
        for each, share, whole in sets(readings, mixture_readings, name)
    ]
    ranks = {name: pl.Float64 for name in rows[0] if name.endswith("_rank")}
    table = pl.DataFrame(rows, schema_overrides={"named": pl.String, "p": pl.Float64, "z": pl.Float64, **ranks})
    write_parquet(power_table, table, stamp)
    write_json(power, {"level": verdict.level, "by_rows": by_rows(table), "by_share": by_share(table)}, stamp)


def sets(readings: Sequence[Path], mixture_readings: Sequence[Path], dataset: str) -> Iterator[tuple[Readings, float, bool]]:
    """Yield (readings, share, whole) of a dataset and of its parts and mixtures; see the columns of `measure_power`."""
    yield from ((each, 1.0, True) for each in sets_of([path for path in readings if path.parent.name == dataset]))
    for each in sets_of([path for path in mixture_readings if path.parent.name == dataset]):
        share = float(each["surface"]["set"].split("-")[1])
        yield each, share, share < 1


def judged(
    name: str,
    own: Readings,
    share: float,
    whole: bool,
    target: str,
    kind: str,
    nulls: Nulls,
    settings: Detection,
    verdict: Verdict,
) -> Json:
    """Return a set's row: its verdict beside what is right."""
    said = judge(own, nulls, verdict)
    return {
        **row(name, said, target, kind, settings),
        "share": share,
        "whole": whole,
        "z": said.get("figures", {}).get("z"),
    }


def by_rows(table: pl.DataFrame) -> list[Json]:
    """Count verdicts on unmixed datasets by number of rows; whole datasets come last, at their mean number of rows."""
    alone = table.filter(share=1.0)
    fewer = [
        {"rows": n, **counts(part)}
        for (n,), part in alone.filter(~pl.col("whole")).sort("rows").group_by("rows", maintain_order=True)
    ]
    whole = alone.filter("whole")
    return fewer + ([] if whole.is_empty() else [{"rows": whole["rows"].mean(), **counts(whole)}])


def by_share(table: pl.DataFrame) -> list[Json]:
    """Count verdicts by the dataset's share of rows, in sets as large as whole datasets; `rows` is their mean number."""
    whole = table.filter("whole").sort("share").group_by("share", maintain_order=True)
    return [{"share": share, "rows": part["rows"].mean(), **counts(part)} for (share,), part in whole]


def counts(table: pl.DataFrame) -> Json:
    """Count datasets that differ, are named, are named rightly, and have the target among all detectors' first three.

    Each count has its exact 95 % interval. The first three are those by all detectors together.
    """
    n = len(table)
    said = {
        "differs": int(table["tier"].is_in(DIFFERENT).sum()),
        "named": int(table["named"].is_not_null().sum()),
        "right": int(table["right"].sum()),
        "first_three": int((table["together_rank"] <= 3).sum()),
    }
    return {"n": n, **said, **{f"{key}_ci95": list(share_interval(k, n)) for key, k in said.items()}}
