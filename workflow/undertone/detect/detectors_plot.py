"""The figure of all detectors: places of the targets, one panel per kind of teacher, development and held out apart."""

from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float
from matplotlib.axes import Axes

from undertone.plots.style import BASE, TEACHER, new_panels, save
from undertone.runtime.files import read_json, read_parquet


def plot_detectors(detectors_table: Path, detectors: Path, plot: Path) -> None:
    """Plot the target's place for each dataset and the mean place; at the right, how many are first and among three."""
    table, groups = read_parquet(detectors_table), read_json(detectors)["by_kind"]
    names = [name for name in next(iter(groups.values())) if any(by[name]["ranked"] for by in groups.values())]
    figure, panels = new_panels(1, len(groups), 4.6 * len(groups) + 1, 0.5 * len(names) + 1.8, sharey=True)
    for axes, (group, by_detector) in zip(panels, groups.items(), strict=True):
        kind, _, chosen = group.partition(", ")
        own = table.filter(kind=kind, development=chosen == "development")
        for y, name in enumerate(names):
            draw(axes, y, own.filter(detector=name), by_detector[name])
        chance = (float(own["candidates"].to_numpy().max()) + 1) / 2
        axes.axvline(chance, color=BASE, linestyle=":", linewidth=1, label="mean place by chance")
        axes.set_title(f"{group}: {own['dataset'].n_unique()} datasets", loc="left", fontsize=9)
        axes.set_xscale("log")
        axes.set_xticks([1, 2, 3, 5, 10, 20], ["1", "2", "3", "5", "10", "20"])
        axes.minorticks_off()
        axes.set_xlabel("place of the target, 1 the first")
    panels[0].set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=8)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    handles, labels = panels[0].get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))  # each once
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    save(figure, plot)


def draw(axes: Axes, y: int, table: pl.DataFrame, counted: dict[str, float]) -> None:
    """Draw a detector's line: a dot per dataset (side by side if their places are equal), the mean place, and the counts."""
    places = np.sort(table["place"].drop_nulls().to_numpy())
    if not len(places):
        return
    axes.plot(places, y + beside(places), "o", color=TEACHER, markersize=4, alpha=0.7, label="a dataset")
    axes.plot([counted["mean_place"]], [y], "|", color="black", markersize=16, label="mean place")
    text = f"{counted['first']} first, {counted['among_three']} among three"
    axes.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), fontsize=7, va="center")


def beside(places: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return the vertical offset of each dot, so that dots of the same place do not overlap; `places` are sorted."""
    first, end = (np.searchsorted(places, places, side) for side in ("left", "right"))
    same, number = end - first, np.arange(len(places)) - first
    offsets: np.ndarray = (number - (same - 1) / 2) * np.minimum(0.12, 0.7 / same)
    return offsets
