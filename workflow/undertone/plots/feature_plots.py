"""Figures of an SAE's features: how near their neighbours are."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from undertone.plots.panels import empty, heading, legend
from undertone.plots.style import BASE, SKY, STUDENT, new_panels, save
from undertone.runtime.files import read_json, read_parquet

COSINES = {"decoder": "decoder rows", "encoder": "encoder columns"}


def plot_neighbours(neighbours: Path, summary: Path, plot: Path) -> None:
    """How near each feature's nearest is, by decoder, by encoder and by co-firing, beside what chance gives."""
    table, about = read_parquet(neighbours).filter(pl.col("rank") == 1), read_json(summary)
    figure, axes = new_panels(1, 3, 13.5, 4)
    for panel, (way, name) in zip(axes, COSINES.items(), strict=False):
        nearest_cosine(panel, table.filter(pl.col("by") == way)["value"].to_numpy(), about[way], name)
    nearest_firing(axes[2], table.filter(pl.col("by") == "firing"), about["firing"])
    title(figure, f"The nearest of each of {about['decoder']['features']:,} features", about)
    save(figure, plot)


def title(figure: Figure, text: str, about: dict[str, Any]) -> None:
    """A figure's title, with a warning where there is one."""
    lines = [text, *([f"Warning: {about['warning']}"] if about["warning"] else [])]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10, color=STUDENT if about["warning"] else "black")


def nearest_cosine(axes: Axes, values: Any, part: dict[str, Any], name: str) -> None:
    """A histogram of cosines, and lines that one in 20 features would lie beyond by chance."""
    if not len(values):
        empty(axes, "fewer than two features fire")
        return
    heading(
        axes, f"{name}: {part['above']:,} lie beyond random vectors, {part['above_spread']:,} beyond such with their spread"
    )
    axes.hist(values, bins=np.linspace(min(0.0, values.min()), 1, 41).tolist(), color=SKY)
    axes.axvline(part["null95"], color="black", linestyle=":", label="random unit vectors, 95 %")
    axes.axvline(part["null95_spread"], color=STUDENT, linestyle="--", label="as spread as these, 95 %")
    axes.set_xlabel("cosine with the nearest")
    axes.set_ylabel("features")
    legend(axes)


def nearest_firing(axes: Axes, table: pl.DataFrame, part: dict[str, Any]) -> None:
    """Each feature's greatest φ against what chance gives of it, which depends on how often it fires."""
    if table.is_empty() or part["null95"] is None:
        empty(axes, "fewer than two features fire, or the text is one context")
        return
    heading(axes, f"co-firing: {part['above']:,} lie beyond {part['shifts']} shifts of the text by whole contexts")
    axes.plot(table["null95"], table["value"], ".", color=SKY, markersize=4, label="a feature")
    axes.plot([0, 1], [0, 1], "-", color=BASE, linewidth=1, label="as by chance")
    axes.set_xlabel("φ by chance, 95 %")
    axes.set_ylabel("φ with the nearest")
    legend(axes)
