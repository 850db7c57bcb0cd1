"""The figure of completeness: which names have a feature, depending on how often the SAE has seen them."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes

from undertone.plots.panels import count_ticks
from undertone.plots.style import BASE, SKY, STUDENT, TEACHER, new_panels, save
from undertone.runtime.files import read_json, read_parquet
from undertone.stats.stats import share_interval

COLOURS = (STUDENT, SKY, TEACHER, BASE)
# Fewest names in a bin of the right panel, and most bins.
AT_LEAST = 8
BINS = 8


def plot_completeness(table: Path, completeness: Path, plot: Path) -> None:
    """Plot the F1 of each name's best feature by count (left), and shares of names covered with logistic curves (right)."""
    result, names = read_json(completeness), read_parquet(table)
    figure, (left, right) = new_panels(1, 2, 10, 4.4)
    for (group, about), colour in zip(result["groups"].items(), COLOURS * len(result["groups"]), strict=False):
        part = names.filter(group=group)
        left.plot(part["count"] + 0.5, part["f1"], ".", color=colour, markersize=5, alpha=0.7, label=group)
        draw_shares(right, part, about, colour, group)
    left.axhline(result["f1"], color=BASE, linestyle=":", linewidth=1, label=f"covered from {result['f1']:g} on")
    left.set_ylabel("F1 of the name's best feature")
    right.set_ylabel("share of names covered (95 % interval)")
    where = "the SAE's training" if result["counted"] == "training" else "the text that is read"
    for axes, title in ((left, "Each name"), (right, "Names of like count")):
        axes.set_xscale("log")
        count_ticks(axes.xaxis)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel(f"times that the name stands in {where}")
        axes.set_title(title, loc="left", fontsize=9)
        axes.legend(frameon=False, fontsize=7)
    save(figure, plot)


def draw_shares(axes: Axes, part: pl.DataFrame, about: dict[str, Any], colour: str, group: str) -> None:
    """Draw shares of covered names in bins of equal size by count, the curve, and the share that chance would cover."""
    ordered = part.sort("count")
    for names in np.array_split(np.arange(len(ordered)), max(1, min(BINS, len(ordered) // AT_LEAST))):
        own = ordered[names.tolist()]
        covered = int(own["covered"].sum())
        low, high = share_interval(covered, len(own))
        x, share = float(np.exp(np.log(own["count"] + 0.5).mean())), covered / len(own)
        axes.errorbar(x, share, [[share - low], [high - share]], fmt="o", color=colour, markersize=5, capsize=2, linewidth=1)
    counts = ordered["count"].to_numpy() + 0.5
    if about["curve"]:
        line = np.linspace(np.log10(counts[0]), np.log10(counts[-1]), 100)
        rise = 1 / (1 + np.exp(-(about["curve"][0] + about["curve"][1] * line)))
        at = f", half at {about['count_50']:,.0f}" if about["count_50"] else ", half nowhere among these counts"
        axes.plot(10**line, rise, color=colour, label=f"{group}{at}")
    else:
        axes.plot([], [], color=colour, label=f"{group}: {about['covered']} of {about['n']}")
    axes.plot(
        counts[[0, -1]], [about["chance"] / about["n"]] * 2, color=colour, linestyle=":", label=f"{group}, names shuffled"
    )
