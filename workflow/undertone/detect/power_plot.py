"""The figure of power: which verdicts are right on fewer rows of a dataset, and on its rows among base samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from undertone.plots.style import BASE, SKY, TEACHER, new_panels, range_of, save
from undertone.runtime.files import read_json

# What is counted: key, label, marker, colour.
COUNTED = (("differs", "said to differ from base samples", "o", SKY), ("right", "named rightly", "D", TEACHER))


def plot_power(power: Path, plot: Path) -> None:
    """Plot the shares of datasets that differ and that are named rightly: left by rows, right by the share of the rows."""
    result = read_json(power)
    figure, (left, right) = new_panels(1, 2, 10, 4.2, sharey=True)
    draw(left, result["by_rows"], "rows", result["level"])
    left.set_xlabel("rows of the dataset, nothing else among them")
    left.set_ylabel("share of datasets")
    draw(right, result["by_share"], "share", result["level"])
    right.set_xlabel("share of rows that are the dataset's, the others base samples")
    groups = result["by_rows"] + result["by_share"]
    size = np.mean([each["rows"] for each in result["by_share"]])
    for axes, what in ((left, "Fewer rows"), (right, f"Mixtures of {size:.0f} rows on average")):
        axes.set_title(f"{what}: {range_of([each['n'] for each in groups], 'dataset')}", loc="left", fontsize=9)
        axes.set_ylim(-0.03, 1.03)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    save(figure, plot)


def draw(axes: Axes, groups: Sequence[dict[str, Any]], key: str, level: float) -> None:
    """Draw both counts as points with exact 95 % intervals, slightly apart, on a logarithmic axis."""
    x = np.array([each[key] for each in groups], dtype=float)
    for (what, label, mark, colour), beside in zip(COUNTED, (0.97, 1.03), strict=True):
        shares = np.array([each[what] / each["n"] for each in groups])
        ends = np.array([each[f"{what}_ci95"] for each in groups]).T
        spread = np.abs(ends - shares)
        axes.errorbar(
            x * beside,
            shares,
            spread,
            fmt=mark,
            color=colour,
            markersize=5,
            capsize=2,
            linewidth=1,
            label=f"{label} (95 % interval)",
        )
    axes.axhline(level, color=BASE, linestyle=":", linewidth=1, label=f"level of the test, {level:g}")
    axes.set_xscale("log")
    axes.set_xticks(x, [f"{each:g}" if key == "share" else f"{each:.0f}" for each in x])
    axes.minorticks_off()
