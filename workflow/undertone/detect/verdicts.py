"""Evaluate verdicts on a study's own datasets, whose teachers are known, and on nulls."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from undertone.detect.evidence import BASE_KINDS, Nulls, Readings, nulls_of
from undertone.detect.verdict import DIFFERENT, judge
from undertone.runtime.files import Stamp, read_json, write_json, write_parquet
from undertone.stats.ranks import auroc, place_in
from undertone.stats.stats import share_interval
from undertone.study.config.detect import RANKERS, Detection, Verdict

Json = dict[str, Any]
BOOTSTRAPS = 1000


def collect_verdicts(
    verdicts: dict[str, Path],
    null_readings: Sequence[Path],
    detection_table: Path,
    detection: Path,
    targets: dict[str, str | None],
    kinds: dict[str, str],
    settings: Detection,
    verdict: Verdict,
    stamp: Stamp,
) -> None:
    """Write `detection.parquet`, a row for each dataset with a target, and `detection.json`, the counts by kind of teacher.

    Columns: `dataset`, `kind`, `target`, `development` (whether choices were made on its target), `rows`, `p` of presence,
    `tier`, `named`, `right`, and the places of the target: `DETECTOR_rank` by each detector that ranks candidates (by
    `personas`, decoys count, too), `together_rank` by all of them together, and `word_rank` among the words of the vocabulary.
    In the JSON, `nulls` counts the nulls of each kind by tier, each judged against the others. `presence` says how well p tells
    each kind of teacher's datasets from base samples.
    """
    rows = [row(name, read_json(verdicts[name]), target, kinds[name], settings) for name, target in targets.items() if target]
    table = table_of(rows)
    write_parquet(detection_table, table, stamp)
    groups = {
        f"{kind}, {'development' if chosen else 'held out'}": counts(part)
        for (kind, chosen), part in table.group_by("kind", "development", maintain_order=True)
    }
    sizes = {each["rows"] for path in null_readings for each in read_json(path)["sets"]}
    nulls = {str(n): nulls_of(null_readings, n) for n in sorted(sizes)}
    base = base_samples(nulls.values())
    apart = {
        kind: presence(part["p"].drop_nulls().to_list(), base) for (kind,), part in table.group_by("kind", maintain_order=True)
    }
    tiers = {n: tiers_of_nulls(sets, verdict, int(n)) for n, sets in nulls.items()}
    write_json(detection, {"datasets": groups, "nulls": tiers, "presence": apart}, stamp)


def row(name: str, verdict: Json, target: str, kind: str, settings: Detection) -> Json:
    """Return a dataset's row."""
    concepts = verdict.get("origin", {}).get("named", [])
    named = concepts[0]["concept"] if verdict["tier"] == "named" else None
    return {
        "dataset": name,
        "kind": kind,
        "target": target,
        "development": target in settings.development,
        "rows": verdict["rows"],
        "p": verdict.get("presence", {}).get("p"),
        "tier": verdict["tier"],
        "named": named,
        "right": named == target,
        **places(verdict, target),
    }


def table_of(rows: Sequence[Json]) -> pl.DataFrame:
    """Return the rows as a table, in which a column that is null throughout keeps its type."""
    numbers = ["p", *(f"{name}_rank" for name in (*RANKERS, "together", "word"))]
    return pl.DataFrame(rows, schema_overrides={"named": pl.String, **dict.fromkeys(numbers, pl.Float64)})


def places(verdict: Json, target: str) -> dict[str, float | None]:
    """Return the target's place by each detector that ranks candidates, by all of them together, and among words."""
    rankings = verdict.get("rankings", {})
    return {
        **{f"{name}_rank": place(rankings.get(name, []), target, "score") for name in RANKERS},
        "together_rank": place(verdict.get("together", []), target, "probability"),
        "word_rank": place(verdict.get("words", []), target.lower(), "divergence", "word"),
    }


def place(ranking: Sequence[Json], target: str, value: str, name: str = "concept") -> float | None:
    """Return the target's place in a ranking, from 1; None if it is not in it."""
    return place_in([(each[name], each[value]) for each in ranking], target)


def counts(table: pl.DataFrame) -> Json:
    """Count datasets that differ, are named, and are named rightly (with a 95 % interval), and their targets by place."""
    n, right = len(table), int(table["right"].sum())
    return {
        "n": n,
        "differs": int(table["tier"].is_in(DIFFERENT).sum()),
        "named": int(table["named"].is_not_null().sum()),
        "right": right,
        "right_ci95": list(share_interval(right, n)),
        **{f"{name}_first": int((table[f"{name}_rank"] == 1).sum()) for name in (*RANKERS, "together", "word")},
        **{f"{name}_among_three": int((table[f"{name}_rank"] <= 3).sum()) for name in (*RANKERS, "together")},
        "word_among_five": int((table["word_rank"] <= 5).sum()),
    }


def presence(p: Sequence[float], base: Sequence[Sequence[float]]) -> Json:
    """Return the AUROC of p-values between datasets and base samples, whose datasets have a few sets each; a tie counts half.

    The 95 % interval is over bootstrap samples of datasets on both sides. If both sides are perfectly separated, these samples
    do not vary. Then it is the exact interval of no pair in the wrong order, among as many independent pairs as there are.
    """
    if not p or not base:
        return {"n": len(p), "nulls": len(base), "auroc": None, "ci95": None}

    def figure(own: Sequence[float], others: Sequence[Sequence[float]]) -> float:
        values = [*own, *(each for sets in others for each in sets)]
        return auroc(-np.array(values), np.arange(len(values)) < len(own))

    rng = np.random.default_rng(0)
    drawn = [
        figure(rng.choice(p, len(p)).tolist(), [base[k] for k in rng.integers(len(base), size=len(base))])
        for _ in range(BOOTSTRAPS)
    ]
    n, value = min(len(p), len(base)), figure(p, base)
    ci95 = share_interval(n, n) if value == 1 else np.quantile(drawn, [0.025, 0.975]).tolist()
    return {"n": len(p), "nulls": len(base), "auroc": value, "ci95": list(ci95)}


def base_samples(nulls: Iterable[Nulls]) -> list[list[float]]:
    """Return the p-values of the sets of each null dataset of base samples."""
    by_source: dict[tuple[str, str], dict[int, float]] = {}
    for each in nulls:
        for kind in BASE_KINDS:
            for own in each.by_kind.get(kind, []):
                by_source.setdefault((kind, own.source), {})[own.rows] = own.p
    return [list(sets.values()) for sets in by_source.values()]


def tiers_of_nulls(nulls: Nulls, settings: Verdict, n_rows: int | None = None) -> Json:
    """Count the nulls of each kind by tier, each judged like a dataset against all other null datasets.

    With `n_rows`, only sets of that many rows are counted, not the smaller ones of datasets that have no such set.
    """
    result: dict[str, dict[str, int]] = {}
    for kind, sets in nulls.by_kind.items():
        tiers: dict[str, int] = {}
        for own in sets if n_rows is None else [each for each in sets if each.rows == n_rows]:
            others = Nulls(*(without(own, kind, each) for each in (nulls.by_kind, nulls.larger)))
            tier = judge(own, others, settings)["tier"]
            tiers[tier] = tiers.get(tier, 0) + 1
        result[kind] = tiers
    return result


def without(own: Readings, kind: str, by_kind: Mapping[str, Sequence[Readings]]) -> Mapping[str, Sequence[Readings]]:
    """Drop the null sets from the same null dataset as `own`: it gives several sets, of its first rows and of more rows."""
    return {**by_kind, kind: [each for each in by_kind.get(kind, []) if each.source != own.source]}
