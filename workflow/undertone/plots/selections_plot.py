"""The figure of selections: what students learn from the rows that score highest or lowest, beside rows at random."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from undertone.plots.style import BASE, error_bars, n_of, new_panels, range_of, save, set_title
from undertone.runtime.files import read_json

# Mark and label of each kind of arm.
KINDS = {
    "subset": ("base", "rows at random"),
    "without": ("control", "without the other writer's rows"),
    "top": ("student", "highest score"),
    "bottom": ("teacher", "lowest score"),
}


def plot_selections(selections: Path, plot: Path) -> None:
    """Plot the lift of each arm's students, one panel per dataset, with that of random rows as a line."""
    result = read_json(selections)
    datasets = result["datasets"]
    figure, panels = new_panels(1, len(datasets), max(6.0, 4.2 * len(datasets)), 4.8)
    for axes, (name, each) in zip(panels, datasets.items(), strict=True):
        draw(axes, each)
        seeds = range_of([arm["seeds"] for arm in each["arms"]], "seed")
        set_title(axes, f"{name}, target {each['target']}, {seeds}")
    panels[0].set_ylabel("lift of the target over the control students\n(probability, 95 % interval)")
    handles = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False, fontsize=8)
    figure.supxlabel(f"{n_of(len(datasets), 'dataset')}, preference: {result['estimator']}", fontsize=8)
    save(figure, plot)


def draw(axes: Axes, each: dict[str, Any]) -> None:
    """Draw the arms of one dataset in their order."""
    arms = each["arms"]
    for kind, (mark, label) in KINDS.items():
        places = [k for k, arm in enumerate(arms) if kind_of(arm) == kind]
        if places:
            error_bars(axes, [float(k) for k in places], [arms[k]["lift_over_control"] for k in places], mark, label)
    random = next(arm for arm in arms if arm["dataset"] == each["random"])
    axes.axhline(random["lift_over_control"]["mean"], color=BASE, linewidth=0.8, linestyle="--")
    axes.axhline(0, color="black", linewidth=0.6)
    names = [name_of(arm, arms) for arm in arms]
    axes.set_xticks(range(len(arms)), names, rotation=40, ha="right")
    axes.tick_params(axis="x", labelsize=8)


def name_of(arm: dict[str, Any], arms: Sequence[dict[str, Any]]) -> str:
    """An arm's score, with the share of rows where another arm has the same score and side; else what kind it is."""
    if "score" not in arm:
        return KINDS[kind_of(arm)][1]
    alike = [each for each in arms if (each.get("score"), kind_of(each)) == (arm["score"], kind_of(arm))]
    share = f" ({arm['fraction']:.0%})" if len(alike) > 1 else ""
    return arm["score"].replace("_", " ") + share


def kind_of(arm: dict[str, Any]) -> str:
    """Return which of `KINDS` an arm is."""
    return str(arm.get("keep", arm["transform"]))
