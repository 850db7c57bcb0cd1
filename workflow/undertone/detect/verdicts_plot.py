"""The figure of the bench: what each verdict says, and where the detectors put the target."""

from pathlib import Path

import numpy as np
import polars as pl

from undertone.plots.style import BASE, MARKS, SKY, STUDENT, TEACHER, new_panels, save
from undertone.runtime.files import read_json, read_parquet
from undertone.study.config.detect import RANKERS

# A mark and a colour for each detector that ranks candidates, and for all of them together.
RANKED = {"together": ("*", "black")} | dict(
    zip(RANKERS, (("o", SKY), ("D", TEACHER), ("s", "#CC79A7"), ("^", "#E69F00")), strict=True)
)
COLOURS = {"right": TEACHER, "wrong": STUDENT, "none": BASE}


def plot_verdicts(detection_table: Path, detection: Path, plot: Path) -> None:
    """Plot the target's place by each detector, one row per dataset (left), and what is said of nulls, by kind (right)."""
    table, result = read_parquet(detection_table), read_json(detection)
    table = table.sort("kind", "target", descending=True)
    figure, (left, right) = new_panels(1, 2, 12, max(3.5, 0.2 * len(table) + 1))
    for (name, (mark, colour)), beside in zip(RANKED.items(), np.linspace(-0.3, 0.3, len(RANKED)), strict=True):
        y = np.arange(len(table)) + beside
        label = name.replace("_", " ")
        left.plot(table[f"{name}_rank"].cast(pl.Float64), y, mark, color=colour, markersize=4, label=label)
    for y, (named, is_right) in enumerate(table.select("named", "right").iter_rows()):
        text = f"named {named}" if named else "not named"
        colour = COLOURS["right" if is_right else "wrong" if named else "none"]
        left.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), fontsize=7, color=colour, va="center")
    left.set_yticks(range(len(table)), table["dataset"].to_list(), fontsize=7)
    left.set_xscale("log")
    left.set_xticks([1, 2, 3, 5, 10, 20, 50], ["1", "2", "3", "5", "10", "20", "50"])
    left.set_xlabel("place of the target, 1 the first")
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(RANKED), frameon=False, fontsize=8)
    bars = [(f"{kind}, {n} rows", tiers) for n, kinds in result["nulls"].items() for kind, tiers in kinds.items()]
    colours = {
        "no statement": "#DDDDDD",
        "base samples": BASE,
        "differs": SKY,
        "persona-like": MARKS["teacher"][1],
        "named": STUDENT,
    }
    for y, (_, tiers) in enumerate(bars):
        start = 0
        for tier, colour in colours.items():
            right.barh(y, tiers.get(tier, 0), left=start, color=colour, label=tier if y == 0 else "_")
            start += tiers.get(tier, 0)
    right.set_yticks(range(len(bars)), [label for label, _ in bars], fontsize=8)
    right.set_xlabel("null datasets, by what is said of them")
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, frameon=False, fontsize=8)
    save(figure, plot)
