"""The figure of scaling: unexplained variance by width, by tokens and by compute, beside controls and the fitted law."""

from pathlib import Path

import numpy as np
import polars as pl
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from undertone.lab.power_law import Law
from undertone.plots.panels import Json, heading, legend
from undertone.plots.style import BASE, STUDENT, new_panels, save
from undertone.runtime.files import read_json, read_parquet

# A wider interval does not determine an exponent.
WIDEST = 2.0


def plot_scaling(table: Path, scaling: Path, plot: Path) -> None:
    """Plot by tokens, a line per width (left), by width (middle), and by compute, with each budget's best width (right)."""
    grid, body = read_parquet(table), read_json(scaling)
    figure, (left, middle, right) = new_panels(1, 3, 15, 4.6)
    draw(left, grid, body, "tokens", "d_sae", "tokens of training", "features")
    draw(middle, grid, body, "d_sae", "tokens", "features of the SAE", "tokens")
    draw_compute(right, grid, body)
    for axes, by in ((left, "b"), (middle, "a")):
        heading(axes, f"Exponent {exponent(body['text'][by])}; of normal vectors {exponent(body['gaussian'][by])}")
    save(figure, plot)


def exponent(of: Json) -> str:
    """Format an exponent with its 95 % interval over runs, as `0.53 [0.41, 0.66]`, if the runs determine it."""
    low, high = of["ci95"]
    if high - low > WIDEST:
        return "not determined"
    return f"{of['value']:.2f} [{low:.2f}, {high:.2f}]"


def law_of(of: Json) -> Law:
    """Return the fitted law."""
    return Law(of["E"]["value"], of["A"], of["a"]["value"], of["B"], of["b"]["value"])


def draw(axes: Axes, grid: pl.DataFrame, body: Json, by: str, beside: str, label: str, unit: str) -> None:
    """Draw unexplained variance by width or tokens, with a line of the law for each value of the other; controls in grey."""
    values = sorted(set(grid[beside].to_list()))
    x = np.geomspace(grid[by].min(), grid[by].max(), 50)  # type: ignore[arg-type]
    for kind, control in (("gaussian", True), ("text", False)):
        law = law_of(body[kind])
        for k, value in enumerate(values):
            color = BASE if control else colormaps["viridis"](0.9 * k / max(1, len(values) - 1))
            some = grid.filter(pl.col("gaussian") == control, pl.col(beside) == value)
            axes.plot(some[by], 1 - some["explained_variance"], "o", color=color, markersize=3 if control else 5)
            other = np.full(len(x), float(value))
            axes.plot(
                x,
                law.at(*((x, other) if by == "d_sae" else (other, x))),
                color=color,
                linewidth=0.7 if control else 1.2,
                label=None if control else f"{value:,} {unit}",
            )
    axes.plot([], [], "o-", color=BASE, markersize=3, label="normal vectors")
    axes.axhline(body["pca"], color="black", linestyle="--", linewidth=0.8, label="principal components")
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel="unexplained share of the variance")
    ticks = sorted(set(grid[by].to_list()))
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0.4 * float((1 - grid["explained_variance"].to_numpy()).min()))
    legend(axes, loc="lower left")


def draw_compute(axes: Axes, grid: pl.DataFrame, body: Json) -> None:
    """Draw unexplained variance by the operations of a training, and the law's best for each budget."""
    own = grid.filter(gaussian=False)
    widths = sorted(set(own["d_sae"].to_list()))
    for k, width in enumerate(widths):
        some = own.filter(d_sae=width)
        color = colormaps["viridis"](0.9 * k / max(1, len(widths) - 1))
        axes.plot(some["flops"], 1 - some["explained_variance"], "o", color=color, markersize=5, label=f"{width:,} features")
    best = [each for each in body["text"]["budgets"] if each["d_sae"] is not None]
    axes.plot(
        [each["flops"] for each in best], [each["unexplained"] for each in best], "x--", color=STUDENT, label="best, by the law"
    )
    for each in best:
        where = (each["flops"], each["unexplained"])
        axes.annotate(f"{each['d_sae']:,}", where, fontsize=7, xytext=(0, -11), textcoords="offset points", ha="center")
    axes.set(
        xscale="log", yscale="log", xlabel="floating-point operations of a training", ylabel="unexplained share of the variance"
    )
    heading(axes, "By compute; numbers are the widths that are best by the law")
    legend(axes)
