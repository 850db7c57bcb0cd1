"""Figure of a dose: preference, side effects and number lists that pass the filter, by strength."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from undertone.plots.panels import empty, heading
from undertone.plots.style import BASE, SKY, STUDENT, TEACHER, new_panels, save
from undertone.runtime.files import read_json

NULL_COLOURS = (SKY, BASE)


def plot_dose(dose: Path, plot: Path) -> None:
    """Draw the target's lift against null vectors, KL and loss on text, and the share of number lists that pass the filter."""
    result = read_json(dose)
    rows = result["scales"]
    scales = np.array([row["scale"] for row in rows])
    repeated = result["by_layer"]
    figure, (left, middle, right, *further) = new_panels(1, 5 if repeated else 3, 20 if repeated else 12, 3.9)
    if result["target"] is None:
        empty(left, result["verdict"])
    else:
        draw_lift(left, result, scales)
        ticks(left, scales)
    for key, label, colour in (("kl", "KL(steered ‖ base)", STUDENT), ("loss", "loss", TEACHER)):
        middle.plot(scales, [row[key] for row in rows], "o-", color=colour, markersize=3, linewidth=1, label=label)
    middle.axhline(result["base"]["loss"], color=TEACHER, linestyle=":", linewidth=1, label="loss, base model")
    middle.set_yscale("symlog", linthresh=0.1)
    middle.set_ylabel("nats per token of text")
    middle.set_ylim(bottom=0)
    heading(middle, "Side effects on text, all tokens steered")
    right.plot(scales, [row["pass_rate"] for row in rows], "o-", color=STUDENT, markersize=3, linewidth=1, label="steered")
    right.axhline(result["base"]["pass_rate"], color=BASE, linestyle=":", linewidth=1, label="base model")
    right.set_ylabel("share of number lists that pass the filter")
    right.set_ylim(-0.03, 1.03)
    heading(right, "Lists of numbers")
    for axes in (middle, right):
        ticks(axes, scales)
        axes.legend(frameon=False, fontsize=7)
    if repeated:
        draw_layers(further[0], repeated, result["target"])
        draw_side_effects(further[1], repeated)
    figure.suptitle(f"{plot.parents[1].name}, layer {result['layer']}: {result['verdict']}", fontsize=9, x=0.01, ha="left")
    save(figure, plot)


def draw_lift(axes: Axes, result: dict[str, Any], scales: Float[np.ndarray, " n_scales"]) -> None:
    """Draw the target's lift with its interval, and a band for each kind of null vectors."""
    rows = result["scales"]
    for colour, kind in zip(NULL_COLOURS, rows[0]["nulls"], strict=False):
        low, high = ([row["nulls"][kind][key] for row in rows] for key in ("quantile_05", "quantile_95"))
        n = rows[0]["nulls"][kind]["n"]
        axes.fill_between(scales, low, high, color=colour, alpha=0.35, linewidth=0, label=f"90 % of {n} null vectors: {kind}")
    lifts = np.array([row["lift"]["mean"] for row in rows])
    ends = np.array([row["lift"]["ci95"] or [row["lift"]["mean"]] * 2 for row in rows])
    axes.errorbar(
        scales,
        lifts,
        np.abs(ends.T - lifts),
        fmt="D-",
        color=STUDENT,
        markersize=4,
        linewidth=1,
        capsize=2,
        label="vector (95 % interval: questions)",
    )
    for scale in result["window"] or []:
        axes.axvline(
            scale, color=TEACHER, alpha=0.25, linewidth=6, zorder=0, label="window" if scale == result["window"][0] else "_"
        )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel(f"lift of the preference for {result['target']}")
    heading(axes, f"Preference for {result['target']}, base model {result['base']['preference'][result['target']]:.3f}")
    axes.legend(frameon=False, fontsize=7)


def draw_layers(axes: Axes, repeated: dict[str, Any], target: str | None) -> None:
    """Draw the greatest lift of each layer at a tolerable KL, and the null vectors at that scale."""
    if target is None:
        empty(axes, "the vector has no target, whose preference could rise")
        return
    for layer in repeated["layers"]:
        within = [row for row in layer["scales"] if row["kl"] <= repeated["max_kl"]]
        best = max(within, key=lambda row: row["lift"]["mean"], default=layer["scales"][0])
        lift, ends = best["lift"]["mean"], best["lift"]["ci95"] or [best["lift"]["mean"]] * 2
        axes.errorbar(
            layer["layer"],
            lift,
            [[lift - ends[0]], [ends[1] - lift]],
            fmt="D",
            color=STUDENT,
            markersize=5,
            capsize=2,
            fillstyle="full" if layer["window"] else "none",
        )
        for colour, null in zip(NULL_COLOURS, best["nulls"].values(), strict=False):
            axes.plot(layer["layer"], null["quantile_95"], "_", color=colour, markersize=14, markeredgewidth=2)
        axes.annotate(f"{best['scale']:g}", (layer["layer"], lift), (6, 4), textcoords="offset points", fontsize=7)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks([layer["layer"] for layer in repeated["layers"]])
    axes.set(xlabel="layer after which its own contrast is added", ylabel=f"lift of the preference for {target}")
    heading(
        axes, f"Greatest lift at a KL of at most {repeated['max_kl']:g}, at which scale; dashes: null .95; hollow: no window"
    )


def draw_side_effects(axes: Axes, repeated: dict[str, Any]) -> None:
    """Draw KL on text where every layer with a window lifts the target equally."""
    known = [layer for layer in repeated["layers"] if layer["kl"] is not None]
    if not known:
        empty(axes, "no layer has a window")
        return
    axes.bar([layer["layer"] for layer in known], [layer["kl"] for layer in known], color=STUDENT, width=0.6)
    axes.set_xticks([layer["layer"] for layer in repeated["layers"]])
    axes.set(xlabel="layer", ylabel="KL(steered ‖ base), nats per token of text")
    heading(axes, f"Side effects of an equal lift, {repeated['equal_lift']:.3f}")


def ticks(axes: Axes, scales: Float[np.ndarray, " n_scales"]) -> None:
    """Label the strengths of both signs on a symmetric logarithmic axis."""
    least = float(np.abs(scales).min())
    axes.set_xscale("symlog", linthresh=least, linscale=0.5)
    axes.set_xticks(scales, [f"{scale:g}".replace("0.", ".") for scale in scales], fontsize=7, rotation=60)
    axes.minorticks_off()
    axes.set_xlabel("size of what is added / mean residual norm")
