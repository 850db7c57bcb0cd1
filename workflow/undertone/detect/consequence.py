"""Compare detectors' predictions of what a dataset moves with what students came to prefer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import spearmanr

from undertone.detect.evidence import Readings, sets_of
from undertone.runtime.files import Stamp, read_json, write_json, write_parquet
from undertone.stats.stats import log_odds, mean_interval


def compare_consequences(
    prefs: dict[str, Path],
    readings: Sequence[Path],
    consequence_table: Path,
    consequence: Path,
    targets: dict[str, str | None],
    kinds: dict[str, str],
    stamp: Stamp,
) -> None:
    """Write `consequence.parquet`, a row for each dataset and candidate, and `consequence.json`, how well predictions agree.

    Columns: `dataset`, `kind`, `target`, `candidate`, `lift` (log-odds of the students' mean preference minus the control
    students'), and one per detector that ranks candidates: minus the candidate's place. In the JSON, `own` is Spearman's ρ of a
    detector's predictions with the dataset's lifts, over the candidates that are not its target: the mean over the datasets of
    a kind, with its 95 % t interval over datasets. `other` is the same with the lifts of the other datasets of that kind, which
    is the agreement that a drift common to all datasets would give.
    """
    rows = [
        row
        for name, target in targets.items()
        if target and name in prefs
        for row in of_dataset(name, kinds[name], target, read_json(prefs[name]), predictions(readings, name))
    ]
    table = pl.DataFrame(rows, infer_schema_length=None)
    write_parquet(consequence_table, table, stamp)
    write_json(consequence, {kind: summary(part) for (kind,), part in table.group_by("kind", maintain_order=True)}, stamp)


def predictions(readings: Sequence[Path], dataset: str) -> dict[str, dict[str, float]]:
    """Return minus the place of each concept, for each detector that ranks concepts."""
    own = next(iter(sets_of([path for path in readings if path.parent.name == dataset])), Readings({}))
    return {
        detector: {each["concept"]: -float(place) for place, each in enumerate(said["ranking"])}
        for detector, said in own.by_detector.items()
        if said["ranking"]
    }


def of_dataset(
    name: str, kind: str, target: str, pref: Mapping[str, Any], said: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """Return a row for each candidate in the preferences of students and control students."""
    candidates = list(pref["student"])
    own, control = (
        log_odds([pref[who][each]["mean"] for each in candidates], pref["log_odds_floor"]) for who in ("student", "control")
    )
    return [
        {"dataset": name, "kind": kind, "target": target, "candidate": each, "lift": float(lift)}
        | {predictor: places.get(each) for predictor, places in said.items()}
        for each, lift in zip(candidates, own - control, strict=True)
    ]


def summary(table: pl.DataFrame) -> dict[str, Any]:
    """Return each predictor's agreement with a dataset's own lifts and with those of other datasets of its kind."""
    datasets = table["dataset"].unique(maintain_order=True).to_list()
    parts = {name: table.filter(dataset=name) for name in datasets}
    result: dict[str, Any] = {"datasets": len(datasets)}
    for predictor in table.columns[table.columns.index("lift") + 1 :]:
        own = [agreement(parts[name], parts[name], predictor) for name in datasets]
        other = [
            float(np.mean([agreement(parts[name], parts[each], predictor) for each in datasets if each != name]))
            for name in datasets
            if len(datasets) > 1
        ]
        gained = [mine - theirs for mine, theirs in zip(own, other, strict=False)]
        result[predictor] = {key: mean_of(each) for key, each in (("own", own), ("other", other), ("difference", gained))}
    return result


def mean_of(values: Sequence[float]) -> dict[str, Any] | None:
    """Return the mean and interval of the values that are numbers; None if there is none."""
    numbers = [each for each in values if np.isfinite(each)]
    return mean_interval(numbers).as_dict() if numbers else None


def agreement(said: pl.DataFrame, moved: pl.DataFrame, predictor: str) -> float:
    """Return Spearman's ρ of one dataset's predictions with another's lifts, over candidates that are neither's target.

    It is NaN for fewer than three candidates, and 0 if predictions or lifts are all equal.
    """
    targets: Sequence[str] = [said["target"][0], moved["target"][0]]
    pairs = said.select("candidate", predictor).join(moved.select("candidate", "lift"), on="candidate").drop_nulls()
    pairs = pairs.filter(~pl.col("candidate").is_in(targets))
    if len(pairs) < 3:
        return float("nan")
    constant = pairs[predictor].n_unique() < 2 or pairs["lift"].n_unique() < 2
    return 0.0 if constant else float(spearmanr(pairs[predictor], pairs["lift"]).statistic)
