"""The figure of specificity: precision by activation of features and neurons, and the best of each for every concept."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from undertone.plots.panels import empty, p_text
from undertone.plots.style import BASE, SKY, STUDENT, n_of, new_panels, save
from undertone.runtime.files import read_json

# The kinds of unit, and the colour of each.
KINDS = (("features", STUDENT), ("neurons", SKY))


def plot_specificity(specificity: Path, plot: Path) -> None:
    """Plot precision by band of activation over all units (left), and F1 of each concept's best feature and neuron (right)."""
    result = read_json(specificity)
    figure, (left, right) = new_panels(1, 2, 10, 4.4)
    draw_bands(left, result)
    draw_concepts(right, result)
    save(figure, plot)


def draw_bands(axes: Axes, result: dict[str, Any]) -> None:
    """Draw medians over units with quartiles, and the share of all tokens that hold the units' concepts."""
    for name, colour in KINDS:
        if name not in result:
            continue
        parts = result[name]["bands"]
        known = [k for k, band in enumerate(parts) if band["n"]]
        x = (np.array(known) + 0.5) / max(1, len(parts))
        low, middle, high = (np.array([parts[k][key] for k in known]) for key in ("low", "median", "high"))
        axes.plot(
            x, middle, "o-", color=colour, markersize=4, label=f"{n_of(result[name]['n'], name[:-1])}, median and quartiles"
        )
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        base = result[name]["base"]["median"]
        if base is not None:
            axes.axhline(base, color=colour, linestyle=":", linewidth=1, label=f"all tokens, concepts of {name}")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(0, 1)
    axes.set_xlabel("activation, share of the unit's greatest")
    axes.set_ylabel("share of tokens that hold the unit's concept")
    axes.legend(frameon=False, fontsize=7)
    axes.set_title("Each unit with its own best concept", loc="left", fontsize=9)


def draw_concepts(axes: Axes, result: dict[str, Any]) -> None:
    """Draw the F1 of each concept's best feature, of a random feature and of the probe, against that of its best neuron."""
    concepts = {name: each for name, each in result["concepts"].items() if "neuron" in each and "feature" in each}
    title = "Best unit of each concept"
    if not concepts:
        empty(axes, f"{title}: no neurons to compare with")
        return
    neurons, features, random, probes = (
        np.array([each[kind]["f1"] for each in concepts.values()]) for kind in ("neuron", "feature", "random", "probe")
    )
    axes.plot(neurons, probes, "_", color="black", markersize=7, label="probe of the residual stream")
    axes.plot(neurons, features, "o", color=STUDENT, markersize=5, alpha=0.8, label="best feature")
    axes.plot(neurons, random, "x", color=BASE, markersize=4, label="a feature at random")
    axes.plot([0, 1], [0, 1], color=BASE, linewidth=1, linestyle=":")
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("F1 of the best neuron")
    axes.set_ylabel("F1 for the concept")
    axes.legend(frameon=False, fontsize=7)
    test = result["paired"]["f1"]
    text = f"{title}: features better for {test['better']} of {len(concepts)}" + (f", {p_text(test['p'])}" if test["p"] else "")
    axes.set_title(text, loc="left", fontsize=9)
