"""The figure of splitting: kinds of features of other SAEs relative to an SAE's own, and the features that are split most."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from undertone.plots.panels import empty
from undertone.plots.style import BASE, SKY, STUDENT, TEACHER, new_panels, save
from undertone.runtime.files import read_json

COLOURS = {"split": STUDENT, "same": TEACHER, "near": SKY, "novel": "#DDDDDD"}
MEANING = {
    "split": "split: several have one nearest",
    "same": "same: the only one, almost as it was",
    "near": "near: the only one, less so",
    "novel": "novel: none is near",
}
# Split features whose parts are shown.
SHOWN = 3


def plot_splitting(splitting: Path, plot: Path) -> None:
    """Plot shares of the living features of each other SAE (left), and three features of this one with their parts (right)."""
    result = read_json(splitting)
    figure, (left, *panels) = new_panels(1, 1 + SHOWN, 13, 3.8)
    others = result["others"]
    draw_shares(left, others, result)
    widest = max(others, key=lambda name: others[name]["d_sae"], default=None)
    trees = others[widest]["trees"][:SHOWN] if widest else []
    for axes, tree in zip(panels, [*trees, *[None] * (SHOWN - len(trees))], strict=True):
        if tree:
            draw_tree(axes, tree, str(widest))
        else:
            empty(axes, "no other feature is split")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(COLOURS), frameon=False, fontsize=8)
    save(figure, plot)


def draw_shares(axes: Axes, others: dict[str, Any], result: dict[str, Any]) -> None:
    """Draw a bar for each other SAE."""
    known = {name: each for name, each in others.items() if each["shares"]}
    if not known:
        empty(axes, "no wider SAE, and none of equal width, of this layer")
        return
    low = np.zeros(len(known))
    for kind, colour in COLOURS.items():
        shares = np.array([each["shares"][kind] for each in known.values()])
        axes.bar(range(len(known)), shares, 0.6, low, color=colour, label=MEANING[kind])
        low += shares
    labels = [
        f"{name}\n{each['d_sae']:,}" + ("\nbaseline" if name in result["baselines"] else "") for name, each in known.items()
    ]
    axes.set_xticks(range(len(known)), labels, fontsize=8)
    axes.set_ylim(0, 1)
    axes.set_ylabel(f"share of living features, beside {result['d_sae']:,}")
    axes.set_title("Features of other SAEs", loc="left", fontsize=9)


def draw_tree(axes: Axes, tree: dict[str, Any], other: str) -> None:
    """Draw a feature at the origin and its parts where their decoder rows lie.

    A part is more opaque, the larger the share of its tokens on which the feature fires.
    """
    axes.plot(0, 0, "s", color=BASE, markersize=8)
    for child in tree["children"]:
        x, y = [*child["place"], 0.0][:2]
        axes.plot([0, x], [0, y], color=BASE, linewidth=0.7)
        axes.scatter(x, y, s=40, color=STUDENT, alpha=0.15 + 0.85 * child["contained"], edgecolors=STUDENT, zorder=3)
        axes.annotate(
            f"{child['feature']} ({child['contained']:.0%})", (x, y), fontsize=6, xytext=(4, 3), textcoords="offset points"
        )
    axes.margins(0.25)
    axes.set_xlabel("difference of decoder rows")
    title = f"{tree['parent']} → {len(tree['children'])} of {other}, which cover {tree['coverage']:.0%}"
    axes.set_title(title, loc="left", fontsize=9)
