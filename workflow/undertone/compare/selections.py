"""Selections: what students learn from the rows of a dataset that score highest or lowest, against as many random rows.

If a score finds the rows that carry a preference, students of the highest ones take up more of it than students of random rows,
and what is left of a mixture without them teaches less. The best that cleaning can do is to leave out exactly the rows of the
other writer, as the transform `without` does.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int, Shaped

from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, read_json, read_parquet, write_json
from undertone.stats.ranks import auroc
from undertone.stats.stats import corrected, difference_interval, ratio
from undertone.study.config.entries import RowScore

Json = dict[str, Any]
BOOTSTRAPS = 400


def compare_selections(
    prefs: Sequence[Path],
    row_scores: Sequence[Path],
    numbers: Sequence[Path],
    settings: dict[str, Any],
    selections: Path,
    stamp: Stamp,
) -> None:
    """Write `selections.json`: for each dataset with selected rows, its `arms`, and for mixtures the `separation` of rows.

    `prefs` are the `pref.json` files of everything made from the datasets, `row_scores` the row scores of the mixtures among
    them, and `numbers` the training sets that were mixed in. Each arm has `lift_over_control` of the target. A selection also
    has `over_random`, its lift minus that of the dataset's `subset`, and, if it keeps the lowest rows and there is an arm
    `without`, `share_of_known`, (random − cleaned) / (random − without). `separation` is the AUROC of each score for rows of
    the other dataset. Raises ConfigError if nothing was selected.
    """
    if not settings["selections"]:
        raise ConfigError(
            "no dataset of this study has selected rows: add some under `datasets:` with `transform: select`, or see "
            "config/cleaning.yaml"
        )
    by_name = {path.parent.name: read_json(path) for path in prefs}
    result = {parent: of_parent(parent, arms, by_name) for parent, arms in settings["selections"].items()}
    for comparison in ("lift_over_control", "over_random"):
        arms = [arm for each in result.values() for arm in each["arms"] if arm[comparison]]
        for arm, estimate in zip(arms, corrected([arm[comparison] for arm in arms]), strict=True):
            arm[comparison] = estimate
    scores, others = ({path.parent.name: read_parquet(path) for path in paths} for paths in (row_scores, numbers))
    for parent, other in settings["mixed_in"].items():
        result[parent]["separation"] = separation(scores[parent], others[other])
    write_json(selections, {"estimator": next(iter(by_name.values()))["estimator"], "datasets": result}, stamp)


def of_parent(parent: str, arms: Mapping[str, Json], prefs: Mapping[str, Json]) -> Json:
    """Return what is made of a dataset. Raises ConfigError if it has no target, or if no rows of it were drawn at random."""
    random, known = (named(arms, transform) for transform in ("subset", "without"))
    if random is None:
        raise ConfigError(
            f"no rows of {parent} are drawn at random to compare its selections with: add a dataset "
            f"{{from: {parent}, transform: subset, rows: as many as a selection has}}"
        )
    target = prefs[random]["target"]
    if not target:
        raise ConfigError(f"datasets.{parent} has no target, so no preference to look for: give it one with `target:`")
    students = {name: prefs[name]["student"][target]["by_seed"] for name in arms}

    def row(name: str, arm: Json) -> Json:
        selected, low = arm["transform"] == "select", arm.get("keep") == "bottom"
        return {
            "dataset": name,
            **arm,
            "seeds": len(students[name]),
            "lift_over_control": difference_interval(students[name], prefs[name]["control"][target]["by_seed"]),
            "over_random": difference_interval(students[name], students[random]) if selected else None,
            "share_of_known": cleaned(students, random, name, known) if known and low else None,
        }

    return {"target": target, "random": random, "arms": [row(name, arm) for name, arm in arms.items()]}


def named(arms: Mapping[str, Json], transform: str) -> str | None:
    """The first of the arms that a transform makes."""
    return next((name for name, arm in arms.items() if arm["transform"] == transform), None)


def cleaned(students: Mapping[str, Sequence[float]], random: str, arm: str, known: str) -> Json:
    """Return the share of the removable preference that a selection removes: (random − arm) / (random − known)."""
    values = (students[random], students[arm], students[known])
    return ratio(values, (1, -1, 0), (1, 0, -1)).as_dict()


def separation(scores: pl.DataFrame, other: pl.DataFrame) -> Json:
    """Return the AUROC of each score for rows of the other dataset, with 95 % intervals over bootstrap samples of prompts.

    `auroc` is empty if all rows are the other dataset's, or none.
    """
    texts = ["prompt", "completion"]
    marked = scores.join(other.select(*texts, theirs=pl.lit(True)).unique(), on=texts, how="left", maintain_order="left")
    theirs = marked["theirs"].fill_null(False).to_numpy()
    samples = list(resampled(scores["prompt"].to_numpy()))
    both = 0 < theirs.sum() < len(theirs)
    return {
        "rows": len(scores),
        "theirs": int(theirs.sum()),
        "auroc": {
            name: with_interval(scores[name].to_numpy(), theirs, samples)
            for name in get_args(RowScore)
            if both and name in scores.columns
        },
    }


def resampled(prompts: Shaped[np.ndarray, " n"]) -> Iterator[Int[np.ndarray, " _"]]:
    """Yield the places of the rows in bootstrap samples of whole prompts."""
    _, group = np.unique(prompts, return_inverse=True)
    places = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    rng = np.random.default_rng(0)
    for _ in range(BOOTSTRAPS):
        yield np.concatenate([places[k] for k in rng.integers(len(places), size=len(places))])


def with_interval(
    values: Float[np.ndarray, " n"], theirs: Bool[np.ndarray, " n"], samples: Sequence[Int[np.ndarray, " _"]]
) -> Json:
    """The AUROC and its percentile interval."""
    drawn = [auroc(values[sample], theirs[sample]) for sample in samples]
    return {"mean": auroc(values, theirs), "ci95": np.nanquantile(drawn, [0.025, 0.975]).tolist()}
