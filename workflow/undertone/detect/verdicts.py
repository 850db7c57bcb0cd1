"""How well the verdicts of a study's own datasets name what their teachers were about, and what is said of nulls."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from undertone.detect.verdict import DIFFERENT, Nulls, Readings, judge, nulls_of
from undertone.runtime.files import Stamp, read_json, write_json, write_parquet
from undertone.stats.ranks import place_in
from undertone.stats.stats import share_interval
from undertone.study.config.detect import Detection, Verdict

Json = dict[str, Any]


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

    Columns: `dataset`, `kind`, `target`, `development` (whether choices were made on its target), `rows`, `tier`, `named`,
    `right`, and the places of the target: among all concepts by `gain_rank`, among the candidates by the gradient, `z_rank`,
    and by a short training, `moved_rank`, by the three together, `together_rank`, and among the words of the vocabulary,
    `word_rank`. `nulls` says how many of each kind come to which tier, each judged by the others.
    """
    rows = [row(name, read_json(verdicts[name]), target, kinds[name], settings) for name, target in targets.items() if target]
    table = pl.DataFrame(rows, schema_overrides={"named": pl.String})
    write_parquet(detection_table, table, stamp)
    groups = {
        f"{kind}, {'development' if chosen else 'held out'}": counts(part)
        for (kind, chosen), part in table.group_by("kind", "development", maintain_order=True)
    }
    sizes = {each["rows"] for path in null_readings for each in read_json(path)["sets"]}
    nulls = {str(n): tiers_of_nulls(nulls_of(null_readings, n), verdict) for n in sorted(sizes)}
    write_json(detection, {"datasets": groups, "nulls": nulls}, stamp)


def row(name: str, verdict: Json, target: str, kind: str, settings: Detection) -> Json:
    """A dataset's row."""
    concepts = verdict.get("origin", {}).get("named", [])
    named = concepts[0]["concept"] if verdict["tier"] == "named" else None
    candidates = verdict.get("origin", {}).get("candidates", [])
    moved = [each for each in candidates if each["z"] is not None]
    return {
        "dataset": name,
        "kind": kind,
        "target": target,
        "development": target in settings.development,
        "rows": verdict["rows"],
        "tier": verdict["tier"],
        "named": named,
        "right": named == target,
        "gain_rank": place(candidates, target, "gain"),
        "z_rank": place(sorted(moved, key=lambda each: -each["z"]), target, "z"),
        "together_rank": place(verdict.get("together", []), target, "probability"),
        "moved_rank": place(verdict.get("consequence", []), target, "score"),
        "word_rank": place(verdict.get("words", []), target, "divergence", "word"),
    }


def place(ranking: Sequence[Json], target: str, value: str, name: str = "concept") -> float | None:
    """The target's place in a ranking, from 1; None where it is not written down."""
    return place_in([(each[name], each[value]) for each in ranking], target)


def counts(table: pl.DataFrame) -> Json:
    """How many datasets, how many of them differ and are named, and how many of them rightly, with its 95 % interval."""
    n, right = len(table), int(table["right"].sum())
    return {
        "n": n,
        "differs": int(table["tier"].is_in(DIFFERENT).sum()),
        "named": int(table["named"].is_not_null().sum()),
        "right": right,
        "right_ci95": list(share_interval(right, n)),
        "gain_first": int((table["gain_rank"] == 1).sum()),
        "z_first": int((table["z_rank"] == 1).sum()),
        "together_first": int((table["together_rank"] == 1).sum()),
        "word_first": int((table["word_rank"] == 1).sum()),
        "word_among_five": int((table["word_rank"] <= 5).sum()),
        "z_among_three": int((table["z_rank"] <= 3).sum()),
        "z_mean_rank": float(table["z_rank"].mean()) if table["z_rank"].is_not_null().any() else None,  # type: ignore[arg-type]
    }


def tiers_of_nulls(nulls: Nulls, settings: Verdict) -> Json:
    """Of each kind of nulls, how many come to each tier, judged as a dataset would be by all others."""
    result: dict[str, dict[str, int]] = {}
    for kind, sets in nulls.by_kind.items():
        tiers: dict[str, int] = {}
        for own in sets:
            others = Nulls(*(without(own, kind, each) for each in (nulls.by_kind, nulls.larger)))
            tier = judge(own, others, settings)["tier"]
            tiers[tier] = tiers.get(tier, 0) + 1
        result[kind] = tiers
    return result


def without(own: Readings, kind: str, by_kind: Mapping[str, Sequence[Readings]]) -> Mapping[str, Sequence[Readings]]:
    """The null sets of other null datasets: one of a kind is the source of several sets, of its first rows and of more."""
    return {**by_kind, kind: [each for each in by_kind.get(kind, []) if each.source != own.source]}
