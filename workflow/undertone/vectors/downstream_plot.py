"""Figure of a vector's effects downstream: the features that it moves, and how much of it later layers carry and write."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from undertone.plots.panels import empty, heading, listed
from undertone.plots.style import BASE, SKY, STUDENT, TEACHER, new_panels, save
from undertone.runtime.files import read_json

FEATURES = 12


def plot_downstream(downstream: Path, plot: Path) -> None:
    """Draw each SAE's features that move most, with what addition alone would do, and below curves over layers."""
    result = read_json(downstream)
    saes = result["saes"][:4]
    n = max(3, len(saes))
    figure, axes = new_panels(2, n, 4.6 * n, 8.4)
    for panel, sae in zip(axes[:n], saes, strict=False):
        draw_features(panel, sae, result["fdr"])
    if saes:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=7)
    for panel in axes[len(saes) : n]:
        empty(panel, "no further SAE at the vector's layer or later")
    draw_curves(axes[n], result, "carried", "share of the vector that is carried", "The vector itself")
    draw_curves(axes[n + 1], result, "share", "share of ‖Δh‖² along the vector", "The rest is what later layers write")
    draw_quality(axes[n + 2], result)
    for panel in axes[n + 3 :]:
        panel.set_axis_off()
    kl = result["kl"]
    null = f" (null vectors {kl['null_mean']:.2f})" if "null_mean" in kl else ""
    figure.suptitle(
        f"{plot.parents[1].name} at {result['scale']:g} of the mean norm after layer {result['layer']}"
        f"{'' if result['window'] else ', no window'}: KL of the next token {kl['value']:.2f} nats{null}, "
        f"{result['rows']} prompts",
        fontsize=9,
        x=0.01,
        ha="left",
    )
    save(figure, plot)


def draw_features(axes: Axes, sae: dict[str, Any], fdr: float) -> None:
    """Draw the features that move most by their z on other prompts: the change seen, and what addition alone gives."""
    top = sae["top"][:FEATURES]
    if not top:
        empty(axes, "no feature moves")
        return
    places = np.arange(len(top))
    colours = [STUDENT if row["p_family"] is not None and row["p_family"] <= fdr else "#E6B89C" for row in top]
    axes.barh(places - 0.2, [row["delta"] for row in top], 0.4, color=colours)
    axes.barh(places + 0.2, [row["carried"] for row in top], 0.4, color=SKY, label="the vector added to the base run there")
    axes.barh(0, 0, color=STUDENT, label=f"seen, beyond null vectors (family-wise p ≤ {fdr:g})")
    axes.barh(0, 0, color="#E6B89C", label="seen, not beyond them")
    axes.set_yticks(places, [f"{row['feature']} {listed(row['tokens'])}" for row in top], fontsize=7)
    axes.set_ylim(len(top) - 0.4, -0.6)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("change of the mean activation")
    alarm = "; SAE is off its distribution" if sae["off_distribution"] else ""
    beyond = "" if sae["beyond_nulls"] is None else f", {sae['beyond_nulls']} of {sae['features']} beyond null vectors"
    heading(axes, f"{sae['sae']}, layer {sae['layer']}{beyond}{alarm}")


def draw_curves(axes: Axes, result: dict[str, Any], key: str, label: str, title: str) -> None:
    """Draw a quantity of the residual stream by layer, with the band of null vectors."""
    layers = [row["layer"] for row in result["layers"]]
    if "nulls" in result["layers"][0]:
        low, high = ([row["nulls"][key][end] for row in result["layers"]] for end in ("quantile_05", "quantile_95"))
        axes.fill_between(
            layers, low, high, color=SKY, alpha=0.4, linewidth=0, label=f"90 % of {result['null_vectors']} null vectors"
        )
    axes.plot(layers, [row[key] for row in result["layers"]], "D-", color=STUDENT, markersize=4, linewidth=1, label="vector")
    axes.set_xticks(layers)
    axes.set_xlabel("layer")
    axes.set_ylabel(label)
    heading(axes, title)
    axes.legend(frameon=False, fontsize=7)


def draw_quality(axes: Axes, result: dict[str, Any]) -> None:
    """Draw the explained variance of each SAE on residuals without and with steering."""
    if not result["saes"]:
        empty(axes, "no SAE at the vector's layer or later")
        return
    places = np.arange(len(result["saes"]))
    for shift, name, colour in ((-0.2, "base", BASE), (0.2, "steered", TEACHER)):
        values = [sae[name]["explained_variance"] for sae in result["saes"]]
        axes.bar(places + shift, values, 0.4, color=colour, label=f"{name} run")
    axes.set_xticks(places, [f"{sae['sae']}\nlayer {sae['layer']}" for sae in result["saes"]], fontsize=8)
    axes.set_ylabel("explained variance of the SAE")
    heading(axes, "Are the SAEs still on their distribution?")
    axes.legend(frameon=False, fontsize=7)
