"""Controls: what is left of a dataset's lift after a transform or in students of another kind, and whether two lifts differ."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, read_json, write_json
from undertone.stats.stats import contrast, corrected, difference_interval

Row = dict[str, Any]


def compare_controls(prefs: Sequence[Path], settings: dict[str, Any], controls: Path, stamp: Stamp) -> None:
    """Write `controls.json` from the `pref.json` of each (dataset, variant) in `settings["compared"]`.

    `lifts` are the target's lifts over the control students of the same variant; `differences` are between each two lifts with
    the same target and variant. Each has a t interval over training seeds with its `p`, and `p_holm`, adjusted for all lifts or
    all differences. Raises ConfigError if no dataset has a target.
    """
    rows = [
        {"dataset": dataset, "variant": variant, "transform": dataset in settings["transforms"], **students(read_json(path))}
        for (dataset, variant), path in zip(settings["compared"], prefs, strict=True)
    ]
    rows = [row for row in rows if row["target"]]
    if not rows:
        raise ConfigError(
            "no dataset with a target has a transform or students of a variant; add one under `datasets:` with `from` and "
            "`transform`, or name datasets under `student_variants:`"
        )
    pairs = [pair for pair in combinations(rows, 2) if alike(*pair)]
    lifts = corrected([difference_interval(row["student"], row["control"]) for row in rows])
    differences = corrected([difference_of_lifts(*pair) for pair in pairs])
    body = {
        "estimator": rows[0]["estimator"],
        "lifts": [row | {"lift_over_control": lift} for row, lift in zip(rows, lifts, strict=True)],
        "differences": [
            {"of": [named(row) for row in pair], "difference": estimate}
            for pair, estimate in zip(pairs, differences, strict=True)
        ],
    }
    write_json(controls, body, stamp)


def students(pref: dict[str, Any]) -> Row:
    """Return the target's preference in each student and control student, from a `pref.json`."""
    target = pref["target"]
    seeds = {mark: pref[mark][target]["by_seed"] for mark in ("student", "control")} if target else {}
    return {"target": target, "against": pref["against"], "estimator": pref["estimator"], **seeds}


def alike(one: Row, other: Row) -> bool:
    """Whether two rows have the same target and kind of student, so that only the numbers differ."""
    return bool(one["target"] == other["target"] and one["variant"] == other["variant"])


def named(row: Row) -> dict[str, str]:
    """Which students a row is about."""
    return {"dataset": row["dataset"], "variant": row["variant"]}


def difference_of_lifts(one: Row, other: Row) -> Any:
    """One lift minus another; a control that both share cancels out."""
    groups: dict[tuple[str, str], list[float]] = {}
    weights: dict[tuple[str, str], int] = defaultdict(int)
    for sign, row in ((1, one), (-1, other)):
        for name, weight, values in ((row["dataset"], sign, row["student"]), (row["against"], -sign, row["control"])):
            groups[name, row["variant"]] = values
            weights[name, row["variant"]] += weight
    return contrast([(weights[key], values) for key, values in groups.items() if weights[key]])
