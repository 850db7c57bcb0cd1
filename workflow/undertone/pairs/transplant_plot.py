"""Figure of a vector that is added in another model: the target's lift and what it costs, by strength."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from undertone.plots.panels import Json, heading, legend
from undertone.plots.style import BASE, SKY, STUDENT, TEACHER, new_panels, save
from undertone.runtime.files import read_json

# Label and colour of each line: the vector in its own model, and in b.
LINES = {
    "in_a": ("in its own model", "black"),
    "turned": ("in b, turned", STUDENT),
    "own": ("b's own contrast", TEACHER),
    "ridge": ("in b, through the affine map", SKY),
    "identity": ("in b, as it is", BASE),
}


def plot_transplant(transplant: Path, plot: Path) -> None:
    """Draw the target's lift with the rotated null vectors, and the KL on text."""
    body = read_json(transplant)
    lines = {"in_a": body["in_a"], **{name: of for name, of in body["in_b"].items() if of}}
    figure, (left, right) = new_panels(1, 2, 11, 4.4)
    draw_nulls(left, lines["turned"])
    for name, (label, colour) in LINES.items():
        if name not in lines:
            continue
        rows = lines[name]["scales"]
        scales, lifts = ([row["scale"] for row in rows], np.array([row["lift"]["mean"] for row in rows]))
        ends = np.array([row["lift"]["ci95"] or [row["lift"]["mean"]] * 2 for row in rows])
        spread = np.abs(ends.T - lifts)
        left.errorbar(scales, lifts, spread, fmt="D-", color=colour, markersize=4, linewidth=1, capsize=2, label=label)
        right.plot(scales, [row["kl"] for row in rows], "D-", color=colour, markersize=4, linewidth=1, label=label)
    for axes in (left, right):
        axes.set_xscale("log")
        ticks = [row["scale"] for row in lines["turned"]["scales"]]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("size of what is added, mean norms of the residual stream")
        legend(axes)
    left.axhline(0, color="black", linewidth=0.5)
    left.set_ylabel(f"lift of {body['target']} (95 % interval: questions)")
    right.set_ylabel("KL(steered ‖ base) on text, nats per token")
    right.set_yscale("symlog", linthresh=0.01)
    right.set_ylim(bottom=0)
    heading(left, f"Vector {body['vector']} of layer {body['layers'][0]} in a, after layer {body['layers'][1]} of b")
    heading(right, body["in_b"]["turned"]["verdict"])
    save(figure, plot)


def draw_nulls(axes: Axes, turned: Json) -> None:
    """Draw the band of each kind of null vectors."""
    rows = turned["scales"]
    for alpha, kind in zip((0.2, 0.35, 0.5), rows[0]["nulls"], strict=False):
        low, high = ([row["nulls"][kind][key] for row in rows] for key in ("quantile_05", "quantile_95"))
        n = rows[0]["nulls"][kind]["n"]
        label = f"90 % of {n} null vectors: {kind}"
        axes.fill_between([row["scale"] for row in rows], low, high, color=STUDENT, alpha=alpha, linewidth=0, label=label)
