"""Figures of an SAE: what it explains, the nearest neighbours of its features, a map, and neurons that are like features."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from undertone.plots.panels import empty, heading, legend, p_text, shown
from undertone.plots.style import BASE, SKY, STUDENT, new_figure, new_panels, save
from undertone.runtime.files import read_json, read_parquet

# Colours of consecutive clusters (Okabe and Ito), and how many clusters are named.
CLUSTERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
NAMED = 12
# What a feature's neuron is compared with.
KINDS = {
    "token": (STUDENT, "the occurrence of its best token"),
    "rerandomized": ("#009E73", "neurons of a rerandomized model"),
    "shifted": ("black", "neurons on text moved by whole contexts"),
}
COSINES = {"decoder": "decoder rows", "encoder": "encoder columns"}
# What an SAE is measured on.
MEASURED = {"text": STUDENT, "prompts": SKY}


def plot_metrics(metrics: Path, plot: Path) -> None:
    """Plot how often features are active, and how much the SAE explains, on text and on the study's prompts."""
    about = read_json(metrics)
    on = {"text": about["on_text"], "prompts": about}
    figure, axes = new_panels(1, 2, 11.5, 4.4)
    densities(axes[0], on)
    shares_explained(axes[1], on)
    title(figure, f"An SAE of {round(about['on_text']['l0'])} active features on text", about)
    save(figure, plot)


def densities(axes: Axes, on: dict[str, Any]) -> None:
    """Draw a histogram of features by the share of tokens on which they are active."""
    dead = ", ".join(f"{seen['dead']:.0%} on {name}" for name, seen in on.items())
    heading(axes, f"dead: {dead}")
    for name, seen in on.items():
        edges = np.logspace(-5, 0, len(seen["density"]) + 1).tolist()
        axes.stairs(seen["density"], edges, color=MEASURED[name], linewidth=1.4, label=f"{name}, {seen['tokens']:,} tokens")
    axes.set_xscale("log")
    axes.set_xlabel("share of tokens on which a feature is active")
    axes.set_ylabel("features")
    legend(axes)


def shares_explained(axes: Axes, on: dict[str, Any]) -> None:
    """Plot loss recovered, explained variance (of all tokens and by kind), and that of as many principal components."""
    outliers = ", ".join(f"{seen['outliers']:,} on {name}" for name, seen in on.items())
    heading(axes, f"left out for their norm: {outliers}")
    kinds = list(dict.fromkeys(kind for seen in on.values() for kind in seen["by_kind"]))
    names = ["loss recovered", "explained variance", "as many components", *(f"variance of {kind}" for kind in kinds)]
    for k, (name, seen) in enumerate(on.items()):
        whole = [seen["loss_recovered"], seen["explained_variance"], seen["pca"]["explained_variance"]]
        of_kinds = {len(whole) + kinds.index(kind): of["explained_variance"] for kind, of in seen["by_kind"].items()}
        values = {**dict(enumerate(whole)), **of_kinds}
        places = np.array([*values]) + 0.4 * k - 0.2
        axes.barh(places, [*values.values()], 0.36, color=MEASURED[name], label=name)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("share, 1 is all")
    axes.set_xlim(right=1)
    legend(axes)


def plot_neighbours(neighbours: Path, summary: Path, plot: Path) -> None:
    """Plot how near each feature's nearest neighbour is, by decoder, by encoder and by co-firing, beside chance."""
    table, about = read_parquet(neighbours).filter(pl.col("rank") == 1), read_json(summary)
    figure, axes = new_panels(1, 3, 13.5, 4)
    for panel, (way, name) in zip(axes, COSINES.items(), strict=False):
        nearest_cosine(panel, table.filter(pl.col("by") == way)["value"].to_numpy(), about[way], name)
    nearest_firing(axes[2], table.filter(pl.col("by") == "firing"), about["firing"])
    title(figure, f"The nearest of each of {about['decoder']['features']:,} features", about)
    save(figure, plot)


def title(figure: Figure, text: str, about: dict[str, Any]) -> None:
    """Set a figure's title, with a warning if there is one."""
    lines = [text, *([f"Warning: {about['warning']}"] if about["warning"] else [])]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10, color=STUDENT if about["warning"] else "black")


def nearest_cosine(axes: Axes, values: Any, part: dict[str, Any], name: str) -> None:
    """Draw a histogram of cosines, and lines that one in 20 features would exceed by chance."""
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
    """Plot each feature's greatest φ against its value by chance, which depends on how often the feature fires."""
    if table.is_empty() or part["null95"] is None:
        empty(axes, "fewer than two features fire, or the text is one context")
        return
    heading(axes, f"co-firing: {part['above']:,} lie beyond {part['shifts']} shifts of the text by whole contexts")
    axes.plot(table["null95"], table["value"], ".", color=SKY, markersize=4, label="a feature")
    axes.plot([0, 1], [0, 1], "-", color=BASE, linewidth=1, label="as by chance")
    axes.set_xlabel("φ by chance, 95 %")
    axes.set_ylabel("φ with the nearest")
    legend(axes)


def plot_map(map_table: Path, map_summary: Path, features: Path, plot: Path) -> None:
    """Draw the map of features, coloured by cluster and sized by firing; clusters are named by their commonest tokens."""
    table, about = read_parquet(map_table), read_json(map_summary)
    figure, axes = new_figure(9, 7.5)
    if about["reason"]:
        empty(axes, about["reason"])
    else:
        table = table.join(read_parquet(features).select("feature", "count", "tokens"), on="feature", maintain_order="left")
        draw_clusters(axes, table)
        heading(axes, map_said(about))
        axes.set_xlabel("UMAP of decoder rows: only who lies beside whom counts, not how far, nor where")
    title(figure, f"Map of {about['features']:,} features of {about['d_sae']:,}", about)
    save(figure, plot)


def map_said(about: dict[str, Any]) -> str:
    """Return the part of a map's title that says how far to trust it."""
    chance, firing = about["by_chance"], about["co_firing"]
    said = [
        f"Of a feature's 10 nearest rows {about['trust']:.0%} are among its 10 nearest here,",
        f"by chance {about['trust_chance']:.0%}.",
        f"{about['clusters']} clusters, {about['noise']:.0%} of the features in none;",
        f"of random rows as spread as these {chance['clusters']:.1f} and {chance['noise']:.0%}.",
    ]
    if firing["ami"] is not None:
        shuffled = f"(shuffled: 95 % below {firing['null95']:.2f}, {p_text(firing['p'])})"
        said.append(f"AMI with clusters of co-firing {firing['ami']:.2f} {shuffled}.")
    return " ".join(said)


def draw_clusters(axes: Axes, table: pl.DataFrame) -> None:
    """Draw features as dots, grey if in no cluster. Names stand in the middle of the 12 largest clusters."""
    size = (8 * np.log10(1 + table["count"].to_numpy())).clip(min=4)
    cluster = table["cluster"].to_numpy()
    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    axes.scatter(x[cluster < 0], y[cluster < 0], s=size[cluster < 0], color="#BBBBBB", linewidths=0, label="in no cluster")
    for k in range(cluster.max() + 1):
        own = cluster == k
        axes.scatter(x[own], y[own], s=size[own], color=CLUSTERS[k % len(CLUSTERS)], linewidths=0)
        tokens = [each[0]["text"] for each in table.filter(own)["tokens"].to_list() if each]
        if tokens and k < NAMED:
            named = " ".join(f"“{shown(token)}”" for token, _ in Counter(tokens).most_common(2))
            middle = (float(np.median(x[own])), float(np.median(y[own])))
            axes.annotate(named, middle, xytext=(0, 9), textcoords="offset points", fontsize=8, ha="center", color="black")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    legend(axes, loc="best")


def plot_neurons(neurons: Path, summary: Path, plot: Path) -> None:
    """Plot |r| of features with their best neuron, beside its nulls and against |r| with their best token."""
    table, about = read_parquet(neurons), read_json(summary)
    figure, axes = new_panels(1, 2, 11.5, 4.4)
    if about["reason"]:
        for panel in axes:
            empty(panel, about["reason"])
    else:
        neuron_histogram(axes[0], about)
        neuron_or_token(axes[1], table, about)
    layers = "layer 0" if not about["layer"] else f"layers 0 to {about['layer']}"
    title(figure, f"Features and neurons of {layers}, chosen on half of the text, scored on the other", about)
    save(figure, plot)


def neuron_histogram(axes: Axes, about: dict[str, Any]) -> None:
    """Draw a histogram of features by |r|, and those of what it is compared with."""
    edges = np.linspace(0, 1, len(about["neuron"]["histogram"]) + 1).tolist()
    weak, beyond = about["neuron"]["weak"], about["above"]
    chance = "" if beyond is None else f"; {beyond:,} lie beyond what moved text has at 95 %"
    heading(axes, f"{about['features']:,} features, {about['neurons']:,} neurons: |r| at most .3 of {weak:.0%}{chance}")
    for key, (colour, name) in {"neuron": (SKY, "a neuron"), **KINDS}.items():
        n, histogram = about[key]["n"], np.array(about[key]["histogram"])
        if n:
            axes.stairs(histogram / n, edges, fill=key == "neuron", color=colour, linewidth=1.4, label=name)
    axes.set_yscale("log")  # on moved text, nearly all values are in the first bin
    axes.set_xlabel("|r| on the scoring half")
    axes.set_ylabel("share of features")
    legend(axes)


def neuron_or_token(axes: Axes, table: pl.DataFrame, about: dict[str, Any]) -> None:
    """Plot each feature's |r| with its best neuron against that with its best token."""
    heading(axes, f"{about['above_token']:,} of {about['features']:,} are more like a neuron than like a token")
    neuron = np.abs([row[0]["r"] for row in table["neurons"].to_list()])
    axes.plot(table["token_r"].abs(), neuron, ".", color=SKY, markersize=4, label="a feature")
    axes.plot([0, 1], [0, 1], "-", color=BASE, linewidth=1, label="as much like either")
    axes.set_xlabel("|r| with the occurrence of its best token")
    axes.set_ylabel("|r| with its best neuron")
    legend(axes)
