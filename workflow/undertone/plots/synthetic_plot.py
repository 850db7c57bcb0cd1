"""The figure of known features: which an SAE recovers, how well, and what a match between two SAEs is worth."""

from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.axes import Axes

from undertone.plots.panels import Json, heading, legend
from undertone.plots.style import BASE, SKY, STUDENT, TEACHER, new_panels, save
from undertone.runtime.files import Stamp, read_json, read_parquet

COLORS = (STUDENT, SKY, TEACHER, "#CC79A7", "#F0E442")


def plot_synthetic(recovery: Path, summary: Path, plot: Path, stamp: Stamp) -> None:
    """Draw the share of features recovered by how often they fire, their cosines, and what matches are worth, beside chance."""
    table, body = read_parquet(recovery), read_json(summary)
    figure, (left, middle, right) = new_panels(1, 3, 16, 4.2)
    draw_rates(left, body)
    draw_cosines(middle, table, body)
    draw_matches(right, body)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=7)
    save(figure, plot)


def colors(body: Json) -> dict[str, str]:
    """Return a colour for each truth."""
    return {n: COLORS[k % len(COLORS)] for k, n in enumerate(body["truths"])}


def draw_rates(axes: Axes, body: Json) -> None:
    """Plot the share of features that each SAE recovers by their rate, with 95 % intervals over features; a line per seed."""
    for n, color in colors(body).items():
        for k, seed in enumerate(body["truths"][n]["seeds"]):
            bins = seed["by_rate"]
            x, y = ([each[name] for each in bins] for name in ("rate", "share"))
            low, high = np.array([each["ci95"] for each in bins]).T
            error = np.clip([y - low, high - y], 0, None)
            axes.errorbar(x, y, error, color=color, marker="o", markersize=4, capsize=2, alpha=0.6 + 0.4 * (k == 0))
            label = f"{int(n):,} features, two seeds" if k == 0 else None
            axes.plot([], [], color=color, marker="o", markersize=4, label=label)
        untrained = body["truths"][n]["seeds"][0]["untrained"]["recovered"]
        axes.axhline(untrained, color=color, linestyle="--", linewidth=1)
    axes.plot([], [], color=BASE, linestyle="--", linewidth=1, label="before training")
    axes.set(
        xscale="log",
        xlabel="share of samples on which a feature fires",
        ylabel="share of features recovered",
        ylim=(-0.03, 1.03),
    )
    heading(axes, f"What an SAE of {body['d_sae']:,} recovers in {body['d_model']} dimensions: cosine ≥ {body['least']:g}")
    legend(axes)


def draw_cosines(axes: Axes, table: pl.DataFrame, body: Json) -> None:
    """Draw histograms of each feature's cosine with its latent, one to one, after and before the SAE's training."""
    bins = np.linspace(-0.2, 1, 49).tolist()
    for n, color in colors(body).items():
        own = table.filter(features=int(n))
        axes.hist(own["cosine"].drop_nulls(), bins, histtype="step", color=color, linewidth=1.5, label=f"{int(n):,} features")
        before = own["untrained_cosine"].drop_nulls()
        axes.hist(before, bins, histtype="step", color=color, linestyle="--", alpha=0.7)
    axes.plot([], [], color=BASE, linestyle="--", label="before training")
    axes.axvline(body["least"], color="black", linewidth=0.7)
    axes.set(xlabel="cosine of a true feature with its latent, one to one", ylabel="features of both seeds")
    heading(axes, "How near its latent is; the line is where one counts as recovered")
    legend(axes)


def draw_matches(axes: Axes, body: Json) -> None:
    """Plot the share of two seeds' pairs above each correlation that are one true feature, by direction and by firing."""
    for n, color in colors(body).items():
        matching = body["truths"][n]["matching"]
        for kind, line in (("direction", "-"), ("firing", ":")):
            judged = matching[kind]["r"]
            if judged["curve"] is None:
                continue
            x, precision = zip(*((each["threshold"], each["precision"]) for each in judged["curve"]), strict=True)
            label = f"{int(n):,}: by {kind}, AUROC {judged['auroc']:.2f}"
            axes.plot(x, precision, line, color=color, label=label)
            if kind == "direction":
                axes.plot(x, [each["recall"] for each in judged["curve"]], "--", color=color, linewidth=0.8)
            axes.axhline(matching[kind]["same"] / matching["pairs"], color=color, linestyle=line, linewidth=0.4)
    axes.plot([], [], "--", color=BASE, linewidth=0.8, label="found of those by direction")
    axes.plot([], [], color=BASE, linewidth=0.4, label="share of all pairs: chance")
    axes.axvline(body["threshold"], color="black", linewidth=0.7)
    axes.set(
        xlabel="least correlation of the pair",
        ylabel="share of these pairs of one true feature",
        xlim=(0, 1.02),
        ylim=(0, 1.03),
    )
    heading(axes, "What matches of two seeds are; the line is where a pair is called shared")
