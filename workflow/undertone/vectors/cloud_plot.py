"""Figure of how a vector changes the cloud of activations: how similar it stays, and where tokens move in a layout."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes

from undertone.plots.panels import empty, heading
from undertone.plots.style import BASE, SKY, STUDENT, TEACHER, new_panels, save
from undertone.runtime.files import read_json, read_parquet

MEASURES = {"cka": "linear CKA", "rsa": "RSA", "knn": "mutual k-NN", "procrustes": "Procrustes r²"}
# Tokens that are drawn with an arrow.
ARROWS = 200
# For residual streams and for SAEs: whether it is an SAE, shift on the axis, marker, colour and label.
KINDS = ((False, -0.12, "D", STUDENT, "residual stream"), (True, 0.12, "o", TEACHER, "features of the SAE"))


def plot_cloud(cloud: Path, table: Path, plot: Path) -> None:
    """Draw the measures by layer, with null vectors and shuffled tokens, and one layout with arrows from before to after."""
    result, places = read_json(cloud), read_parquet(table)
    figure, axes = new_panels(2, 3, 13.5, 8)
    for panel, (name, title) in zip(axes, MEASURES.items(), strict=False):
        draw_measure(panel, result, name, title)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    draw_layout(axes[4], places)
    draw_arrows(axes[5], places)
    figure.suptitle(
        f"{plot.parents[1].name} at {result['scale']:g} of the mean norm after layer {result['layer']}"
        f"{'' if result['window'] else ', no window'}: {result['tokens']} tokens before and after, "
        f"{result['null_vectors']} null vectors of the same size",
        fontsize=9,
        x=0.01,
        ha="left",
    )
    save(figure, plot)


def draw_measure(axes: Axes, result: dict[str, Any], name: str, title: str) -> None:
    """Draw a measure by layer, for residual streams and for SAEs."""
    clouds = [each for each in result["clouds"] if each["measures"]]
    if not clouds:
        empty(axes, "all tokens have the same activations")
        return
    for with_sae, shift, marker, colour, label in KINDS:
        own = [each for each in clouds if (each["sae"] is not None) == with_sae]
        rows = [each["measures"][name] for each in own]
        x = np.array([each["layer"] for each in own]) + shift
        if with_null := [(at, row["vectors"]) for at, row in zip(x, rows, strict=True) if "vectors" in row]:
            means = np.array([null["mean"] for _, null in with_null])
            ends = np.array([[null["quantile_05"], null["quantile_95"]] for _, null in with_null]).T
            at = [place for place, _ in with_null]
            axes.errorbar(
                at,
                means,
                np.abs(ends - means),
                fmt="_",
                color=SKY if with_sae else BASE,
                capsize=3,
                linewidth=4,
                alpha=0.7,
                label=f"null vectors, mean and 90 %, {label}",
            )
        axes.plot(x, [row["value"] for row in rows], marker, color=colour, markersize=6, label=f"vector, {label}")
        axes.plot(x, [row["null_mean"] for row in rows], "x", color=colour, markersize=5, label=f"shuffled tokens, {label}")
    axes.set_xticks(sorted({each["layer"] for each in clouds}))
    axes.set_xlabel("layer")
    axes.set_ylabel(f"{title}, before and after (1: same shape)")
    axes.set_ylim(min(-0.03, axes.get_ylim()[0]), 1.05)
    heading(axes, title)


def draw_layout(axes: Axes, places: pl.DataFrame) -> None:
    """Draw all tokens, before and after."""
    axes.scatter(places["x"], places["y"], s=4, color=BASE, label="before")
    axes.scatter(places["steered_x"], places["steered_y"], s=4, color=STUDENT, alpha=0.6, label="after, placed in the layout")
    finish(axes, f"Residual stream after layer {places['layer'][0]}: one UMAP, fitted on the tokens before")


def draw_arrows(axes: Axes, places: pl.DataFrame) -> None:
    """Draw arrows of some evenly spaced tokens, in one colour for a prompt's last token and another for tokens of answers."""
    axes.scatter(places["x"], places["y"], s=2, color="#DDDDDD")
    some = places[np.unique(np.linspace(0, len(places) - 1, ARROWS).astype(int))]
    for last, colour, label in ((False, SKY, "token of an answer"), (True, STUDENT, "last token of a prompt")):
        own = some.filter(pl.col("last") == last)
        ways = (own["x"], own["y"], own["steered_x"] - own["x"], own["steered_y"] - own["y"])
        style = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.003, "color": colour, "label": label}
        axes.quiver(*(way.to_numpy() for way in ways), **style)
    finish(axes, f"Ways of {len(some)} tokens; distances in a layout mean nothing")


def finish(axes: Axes, title: str) -> None:
    """Finish the axes of a layout, which has no units."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("UMAP 1, no unit")
    axes.set_ylabel("UMAP 2, no unit")
    axes.legend(frameon=False, fontsize=7, markerscale=2)
    heading(axes, title)
