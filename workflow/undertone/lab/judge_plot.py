"""The figure of a language model's grades: grades by activation, and how well they tell examples apart."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from undertone.plots.panels import empty, heading
from undertone.plots.style import BASE, STUDENT, TEACHER, new_panels, save
from undertone.runtime.files import read_json

# Rows of the right panel, from the top: key, what tells which examples apart, colour.
READINGS = (
    ("control", "the judge: holds the concept by rule, or not", TEACHER),
    ("own", "the judge: the feature's own, or another's", STUDENT),
    ("rule", "the rule: the feature's own, or another's", BASE),
)


def plot_judge(judged: Path, plot: Path) -> None:
    """Plot the mean grade of own and of other examples by band of activation (left), and AUROC with intervals (right)."""
    result = read_json(judged)
    figure, (left, right) = new_panels(1, 2, 10, 4.4)
    draw_grades(left, result["bands"])
    draw_readings(right, result)
    figure.suptitle(
        f"{plot.parents[1].name}, judge {result['judge']}: {result['verdict']}", fontsize=9, x=0.01, ha="left", wrap=True
    )
    save(figure, plot)


def draw_grades(axes: Axes, bands: list[dict[str, Any]]) -> None:
    """Draw grades, from 0 to 3, beside three times the share of examples that hold the concept by rule."""
    title = "Grades by activation"
    if not bands:
        empty(axes, f"{title}: no example was graded")
        return
    x = np.arange(len(bands))
    for key, rule, colour, label in (
        ("own", "holds", STUDENT, "the feature's own"),
        ("others", "others_hold", BASE, "another feature's"),
    ):
        grades, shares = ([np.nan if band[each] is None else band[each] for band in bands] for each in (key, rule))
        axes.plot(x, grades, "o-", color=colour, markersize=4, label=f"{label}, mean grade")
        axes.plot(x, 3 * np.array(shares), "x:", color=colour, markersize=5, label=f"{label}, 3 × share that holds it by rule")
    axes.set_ylim(-0.1, 3.1)
    axes.set_xticks(x, [f"{band['group']}\n{band['n']}" for band in bands])
    axes.set_xlabel("part of the range of activation, examples")
    axes.set_ylabel("grade")
    axes.legend(frameon=False, fontsize=7)
    heading(axes, title)


def draw_readings(axes: Axes, result: dict[str, Any]) -> None:
    """Draw the mean AUROC over features with its interval, the AUROC that the judge must reach, and chance."""
    for k, (name, _, colour) in enumerate(READINGS):
        reading = result[name]
        if reading["mean"] is not None:
            axes.plot(reading["mean"], k, "o", color=colour, markersize=6)
            axes.hlines(k, *(reading["ci95"] or (np.nan, np.nan)), color=colour, linewidth=2)
    axes.axvline(0.5, color="black", linewidth=0.8)
    axes.axvline(result["least"], color=TEACHER, linestyle=":", linewidth=1)
    axes.set_yticks(range(len(READINGS)), [f"{label}\n{result[name]['n']} features" for name, label, _ in READINGS], fontsize=7)
    axes.set_ylim(len(READINGS) - 0.5, -0.5)
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("AUROC, mean over features (95 %: features)")
    heading(axes, f"Chance is .5; the judge is of use from {result['least']:g} on (dotted)")
