"""Figure of the share of a vector's effect that is lost without features downstream, and that is there with them alone."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from undertone.plots.panels import empty, heading
from undertone.plots.style import BASE, SKY, STUDENT, TEACHER, new_panels, save
from undertone.runtime.files import read_json

WAYS = {"necessary": ("lost without them", STUDENT), "sufficient": ("there with them alone", TEACHER)}


def plot_restore(restore: Path, plot: Path) -> None:
    """Draw a panel for each SAE after the vector."""
    result = read_json(restore)
    saes = result["saes"][:4]
    figure, axes = new_panels(1, max(2, len(saes)), 4.6 * max(2, len(saes)), 4.4)
    for panel, sae in zip(axes, saes, strict=False):
        draw(panel, sae)
    if saes:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=7)
    for panel in axes[len(saes) :]:
        empty(panel, "no further SAE" if saes else result["verdict"])
    figure.suptitle(
        f"{plot.parents[1].name} at {result['scale']:g} of the mean norm: {result['verdict']}", fontsize=9, x=0.01, ha="left"
    )
    save(figure, plot)


def draw(axes: Axes, sae: dict[str, Any]) -> None:
    """Draw both shares by number of features, with intervals over questions, and those of features drawn at random."""
    rows = sae["rows"]
    sizes = [row["features"] for row in rows]
    for name, (label, colour) in WAYS.items():
        means = [row[name]["mean"] for row in rows]
        ends = [row[name]["ci95"] or [row[name]["mean"]] * 2 for row in rows]
        spread = [[abs(mean - end[side]) for mean, end in zip(means, ends, strict=True)] for side in (0, 1)]
        axes.errorbar(sizes, means, spread, fmt="o-", color=colour, markersize=4, linewidth=1, capsize=2, label=label)
        known = [row for row in rows if "null_95" in row[name]]
        low, high = ([row[name][end] for row in known] for end in ("null_mean", "null_95"))
        dashes = SKY if name == "necessary" else BASE
        axes.fill_between(
            [row["features"] for row in known],
            low,
            high,
            color=dashes,
            alpha=0.4,
            linewidth=0,
            label=f"random features, {label}: mean to 95 %",
        )
    axes.axhline(
        sae["vector_removed"]["mean"], color="black", linestyle=":", linewidth=1, label="lost without the vector itself"
    )
    for at in (0, 1):
        axes.axhline(at, color="black", linewidth=0.5)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("features")
    axes.set_ylabel("share of the effect (95 %: questions)")
    heading(axes, f"{sae['sae']}, layer {sae['layer']}")
