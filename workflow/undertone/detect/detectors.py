"""Compare all detectors on datasets with a known teacher: the place of the target, and whether presence is detected."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from undertone.runtime.files import Stamp, read_json, write_json, write_parquet
from undertone.stats.ranks import place_in
from undertone.stats.stats import share_interval
from undertone.study.config.detect import Detection
from undertone.study.config.measure import Pref

Json = dict[str, Any]
COLUMNS = {
    "dataset": pl.String,
    "kind": pl.String,
    "target": pl.String,
    "development": pl.Boolean,
    "detector": pl.String,
    "rows": pl.Int64,
    "candidates": pl.Int64,
    "place": pl.Float64,
    "ranked": pl.Int64,
    "place_of_all": pl.Float64,
    "p": pl.Float64,
    "z": pl.Float64,
}


def compare_detectors(
    readings: Sequence[Path],
    detectors_table: Path,
    detectors: Path,
    targets: dict[str, str],
    kinds: dict[str, str],
    level: float,
    settings: Detection,
    pref: Pref,
    stamp: Stamp,
) -> None:
    """Write `detectors.parquet`, a row for each dataset and detector, and `detectors.json`, counts by kind of teacher.

    Columns: `dataset`, `kind`, `target`, `development` (whether choices were made on its target), `detector`, `rows`,
    `candidates` (how many candidates it ranks), `place` (of the target among them, from 1), `ranked` and `place_of_all` (the
    same two over all that it ranks, including words that are no candidates), and `p` and `z` of the presence test (z: standard
    deviations above what base samples give). `place` is null if a detector ranks nothing or does not rank the target; `p` and
    `z` are null if it does not test presence. Raises ValueError if no dataset has a target.
    """
    if not targets:
        raise ValueError("no dataset has a target, so no detector is right or wrong: see animals and datasets in the config")
    rows = [
        {"dataset": name, "kind": kinds[name], "target": target, "development": target in settings.development}
        | {"detector": path.stem, **said(read_json(path)["sets"], target, pref.candidates)}
        for name, target in targets.items()
        for path in readings
        if path.parent.name == name
    ]
    table = pl.DataFrame(rows, COLUMNS)
    write_parquet(detectors_table, table, stamp)
    groups: dict[str, Json] = {}
    for (kind, chosen, detector), part in table.group_by("kind", "development", "detector", maintain_order=True):
        group = groups.setdefault(f"{kind}, {'development' if chosen else 'held out'}", {})
        group[str(detector)] = counts(part, level)
    write_json(detectors, {"level": level, "by_kind": groups}, stamp)


def said(sets: Sequence[Json], target: str, candidates: Sequence[str]) -> Json:
    """Return a detector's columns for a dataset, which is one set, or no set if its prompts have no base samples."""
    if not sets:
        return {"rows": 0, "candidates": 0, "ranked": 0} | dict.fromkeys(("place", "place_of_all", "p", "z"))
    everything = sets[0]["ranking"]
    ranking = [each for each in everything if each["concept"] in candidates]
    presence = sets[0]["presence"] or {"p": None, "z": None}
    return {
        "rows": sets[0]["rows"],
        "candidates": len(ranking),
        "place": place_of(ranking, target),
        "ranked": len(everything),
        "place_of_all": place_of(everything, target),
        "p": presence["p"],
        "z": presence["z"],
    }


def place_of(ranking: Sequence[Json], target: str) -> float | None:
    """Return the target's place in a ranking; neighbours of equal score share the mean of their places."""
    return place_in([(each["concept"], each["score"]) for each in ranking], target)


def counts(table: pl.DataFrame, level: float) -> Json:
    """Count datasets, their targets by place, and the datasets in which presence is detected at `level`.

    `first` and `among_three` count targets by their place among the candidates, `first_of_all` and `among_five_of_all` by their
    place among all that is ranked. `mean_place` is over the targets that are ranked, null if none is. `tested` is the number of
    presence tests, `present` the number of those with p below the level. The counts of targets and `present` each have an exact
    95 % interval over datasets.
    """
    n, tested = len(table), int(table["p"].is_not_null().sum())
    first, three = (int((table["place"] <= k).sum()) for k in (1, 3))
    first_of_all, five_of_all = (int((table["place_of_all"] <= k).sum()) for k in (1, 5))
    present = int((table["p"] < level).sum())
    return {
        "n": n,
        "ranked": int(table["place"].is_not_null().sum()),
        "mean_place": table["place"].mean(),
        "mean_candidates": table["candidates"].mean(),
        "first": first,
        "first_ci95": list(share_interval(first, n)),
        "among_three": three,
        "among_three_ci95": list(share_interval(three, n)),
        "mean_ranked": table["ranked"].mean(),
        "first_of_all": first_of_all,
        "first_of_all_ci95": list(share_interval(first_of_all, n)),
        "among_five_of_all": five_of_all,
        "among_five_of_all_ci95": list(share_interval(five_of_all, n)),
        "tested": tested,
        "present": present,
        "present_ci95": list(share_interval(present, tested)),
    }
