"""How verdicts fare on fewer rows of a dataset, and on its rows among base samples."""

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

    Columns are those of `detection.parquet` and `share` (of rows that are the dataset's), `whole` (whether the set has as many
    rows as are read of the dataset), and `z` of presence. `readings` are of whole datasets, `mixture_readings` of what is
    made of them. Raises ValueError if there are none.
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
    """(readings, share of rows that are the dataset's, whether all its rows count) of the dataset and of what is made of it."""
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
    """A set's row: what its verdict says, beside what is right."""
    said = judge(own, nulls, verdict)
    return {
        **row(name, said, target, kind, settings),
        "share": share,
        "whole": whole,
        "z": said.get("figures", {}).get("z"),
    }


def by_rows(table: pl.DataFrame) -> list[Json]:
    """Counts for each number of rows of datasets by themselves; whole ones come last, at their mean number of rows."""
    alone = table.filter(share=1.0)
    fewer = [
        {"rows": n, **counts(part)}
        for (n,), part in alone.filter(~pl.col("whole")).sort("rows").group_by("rows", maintain_order=True)
    ]
    whole = alone.filter("whole")
    return fewer + ([] if whole.is_empty() else [{"rows": whole["rows"].mean(), **counts(whole)}])


def by_share(table: pl.DataFrame) -> list[Json]:
    """Counts for each share of the rows, of as many rows as are read of a dataset; `rows` is their mean number."""
    whole = table.filter("whole").sort("share").group_by("share", maintain_order=True)
    return [{"share": share, "rows": part["rows"].mean(), **counts(part)} for (share,), part in whole]


def counts(table: pl.DataFrame) -> Json:
    """How many datasets differ, are named, are named rightly, and have their target among the first three by all detectors.

    Each count has its exact 95 % interval.
    """
    n = len(table)
    said = {
        "differs": int(table["tier"].is_in(DIFFERENT).sum()),
        "named": int(table["named"].is_not_null().sum()),
        "right": int(table["right"].sum()),
        "first_three": int((table["together_rank"] <= 3).sum()),
    }
    return {"n": n, **said, **{f"{key}_ci95": list(share_interval(k, n)) for key, k in said.items()}}
