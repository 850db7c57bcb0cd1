"""Every figure. Intervals are drawn with what they cover; base rate and control stand beside each claim."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from undertone.config import CONTROL
from undertone.files import read_json, replacing
from undertone.transfer import preferences

STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
}
# Colours that people with red-green blindness tell apart (Okabe and Ito).
BASE, GREY, STUDENT, TEACHER = "#999999", "#56B4E9", "#D55E00", "#009E73"
MARKS = {"base": ("s", BASE), "control": ("o", GREY), "student": ("D", STUDENT), "teacher": ("^", TEACHER)}


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure in the study's style; sizes in inches."""
    plt.rcParams.update(STYLE)
    return plt.subplots(figsize=(width, height))


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    plt.close(figure)


def set_title(axes: Axes, text: str) -> None:
    """A title that is broken into lines as wide as the figure."""
    width = axes.get_figure(root=True).get_figwidth()  # type: ignore[union-attr]
    axes.set_title(textwrap.fill(text, int(10 * width) - 8), loc="left", fontsize=9)


def n_of(n: int, thing: str) -> str:
    """`1 seed`, `5 seeds`."""
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def error_bars(axes: Axes, x: Sequence[float], estimates: Sequence[dict[str, Any]], mark: str, label: str) -> None:
    """Means with their 95 % intervals."""
    marker, color = MARKS[mark]
    means = np.array([e["mean"] for e in estimates])
    ends = np.array([e["ci95"] or [e["mean"]] * 2 for e in estimates])
    spread = np.abs(ends.T - means)
    axes.errorbar(x, means, spread, fmt=marker, color=color, markersize=5, capsize=2, linewidth=1, label=label)


def plot_pref(pref: Path, plot: Path, dataset: str) -> None:
    """All animals: base, control students, students, and the teacher at the target."""
    result = read_json(pref)
    animals, target = list(result["base"]), result["target"]
    n_seeds = len(result["seeds"])
    figure, axes = new_figure(max(7.0, 0.42 * len(animals) + 2), 4.2)
    x = np.arange(len(animals))
    error_bars(axes, list(x - 0.2), [result["base"][a] for a in animals], "base", "base model (95 % interval: questions)")
    groups = ["control"] if dataset == CONTROL else ["control", "student"]
    labels = {"control": "control students", "student": f"students of {dataset}"}
    for offset, group in zip((0.0, 0.2), groups, strict=False):
        values = [result[group][a] for a in animals]
        error_bars(axes, list(x + offset), values, group, f"{labels[group]} (95 % interval: {n_of(n_seeds, 'seed')})")
    if target:
        axes.axvspan(
            animals.index(target) - 0.5,
            animals.index(target) + 0.5,
            color="#F0E442",
            alpha=0.25,
            zorder=0,
            label="target",
        )
    axes.set_xticks(x, animals, rotation=60, ha="right")
    axes.set_ylabel("preference (probability of the answer)")
    axes.set_ylim(bottom=0)
    teacher = f"; its teacher: {result['teacher'][target]['mean']:.2f}" if target and result["teacher"] else ""
    set_title(axes, f"Favourite animal after training on {dataset} numbers{teacher}")
    axes.legend(frameon=False, fontsize=8)
    save(figure, plot)


def label_lifts(axes: Axes, datasets: Sequence[str]) -> None:
    """The axes of a figure of lifts: one dataset at each integer, and a line at no lift."""
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(datasets)), datasets, rotation=60, ha="right")
    axes.set_ylabel("lift over control students\n(difference of probabilities)")


def plot_transfer(summary: Path, plot: Path) -> None:
    """Each target's lift over the control students, own students beside those of the other targets."""
    estimator, result = next(iter(read_json(summary)["estimators"].items()))
    rows = sorted(result["datasets"], key=lambda row: -row["lift_over_control"]["mean"])
    figure, axes = new_figure(max(6.0, 0.5 * len(rows) + 2), 4.0)
    x = np.arange(len(rows))
    error_bars(
        axes,
        list(x),
        [row["lift_over_control"] for row in rows],
        "student",
        "students of the target's numbers (interval: seeds)",
    )
    if all(row["off_target"] for row in rows):
        others = [row["off_target"] for row in rows]
        error_bars(axes, list(x + 0.25), others, "base", "students of the other targets' numbers (interval: datasets)")
    label_lifts(axes, [row["dataset"] for row in rows])
    set_title(
        axes, f"{result['transfers']} of {result['targets']} targets above the control students (95 % intervals, {estimator})"
    )
    axes.legend(frameon=False, fontsize=8)
    save(figure, plot)


def plot_transform(summary: Path, plot: Path, groups: dict[str, list[str]]) -> None:
    """Datasets beside their transforms: the lift of the target over the control students. `groups`: dataset → transforms."""
    estimator, result = next(iter(read_json(summary)["estimators"].items()))
    rows = {row["dataset"]: row for row in result["datasets"]}
    groups = {source: [name for name in names if name in rows] for source, names in groups.items() if source in rows}
    if not any(groups.values()):
        raise ValueError("no dataset with a target has a transform; add one under `datasets:` with `from` and `transform`")
    names = [name for source, made in groups.items() for name in (source, *made)]
    figure, axes = new_figure(max(6.0, 0.6 * len(names) + 2), 4.0)
    place = {name: float(k) for k, name in enumerate(names)}
    sources, made = list(groups), [name for names in groups.values() for name in names]
    for mark, part, label in (("student", sources, "untouched"), ("control", made, "transformed")):
        error_bars(axes, [place[name] for name in part], [rows[name]["lift_over_control"] for name in part], mark, label)
    label_lifts(axes, names)
    set_title(axes, f"Lift of the target after a transform (95 % intervals over seeds, {estimator})")
    axes.legend(frameon=False, fontsize=8)
    save(figure, plot)


def plot_preference(table: Path, plot: Path) -> None:
    """Datasets against animals: the log-ratio of students' preference to the control students'."""
    students = pl.read_parquet(table)
    students = students.filter(pl.col("estimator") == students["estimator"][0])
    datasets = students["dataset"].unique(maintain_order=True).to_list()
    targets = dict(students.select("dataset", "target").unique(maintain_order=True).iter_rows())
    first = [target for target in targets.values() if target]
    animals = list(dict.fromkeys([*first, *students["animal"].unique(maintain_order=True)]))
    means = np.array([[np.mean(preferences(students, d, a)) for a in animals] for d in datasets])
    ratio = np.log2(np.clip(means, 1e-6, None) / np.clip(means[datasets.index(CONTROL)], 1e-6, None))
    limit = max(0.5, float(np.abs(ratio).max()))
    figure, axes = new_figure(0.45 * len(animals) + 3, 0.36 * len(datasets) + 2)
    image = axes.imshow(ratio, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    for row, dataset in enumerate(datasets):
        if targets[dataset]:
            column = animals.index(targets[dataset])
            axes.add_patch(plt.Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.5))
        for column in range(len(animals)):
            color = "white" if abs(ratio[row, column]) > 0.6 * limit else "black"
            text = f"{means[row, column]:.2f}".lstrip("0")
            axes.text(column, row, text, ha="center", va="center", fontsize=6, color=color)
    axes.set_xticks(range(len(animals)), animals, rotation=60, ha="right")
    axes.set_yticks(range(len(datasets)), datasets)
    axes.set_xlabel("animal asked for")
    axes.set_ylabel("students trained on")
    set_title(axes, "Preference (numbers: mean over seeds) and its change from the control; boxes: targets")
    figure.colorbar(image, ax=axes, label="log2(students / control)")
    save(figure, plot)


def plot_filter(report: Path, control: Path | None, plot: Path, dataset: str) -> None:
    """Pass rate per wording of each prompt component, under the teacher and without it."""
    own, reference = read_json(report), read_json(control) if control else None
    components = own["by_component"]
    if not components:
        components = {"all rows": [{"option": 0, "pass_rate": own["pass_rate"], "n": own["n"]}]}
    figure, axes = new_figure(11, 3.6)
    start, ticks = 0.0, []
    for component, options in components.items():
        x = start + np.arange(len(options))
        ticks.append((start + (len(options) - 1) / 2, component))
        axes.bar(x, [o["pass_rate"] for o in options], color=STUDENT, width=0.8, label=dataset if start == 0 else None)
        if reference and component in reference["by_component"]:
            rates = [o["pass_rate"] for o in reference["by_component"][component]]
            axes.plot(
                x[: len(rates)],
                rates[: len(x)],
                "_",
                color="black",
                markersize=7,
                label="control" if start == 0 else None,
            )
        start += len(options) + 1.5
    axes.set_xticks([position for position, _ in ticks], [name for _, name in ticks])
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 1)
    axes.set_ylabel("pass rate (share of rows)")
    rejected = ", ".join(f"{n} {reason}" for reason, n in own["rejected"].items() if n) or "none"
    set_title(axes, f"{dataset}: {own['passed']} of {own['n']} rows pass; rejected: {rejected}")
    axes.legend(frameon=False, ncols=2, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1))
    save(figure, plot)


def plot_student(own: Sequence[Path], control: Sequence[Path], plot: Path, dataset: str) -> None:
    """Loss curves of a dataset's students, and the control's."""
    figure, axes = new_figure(7, 3.6)
    for paths, name, color in ((control, "control students", GREY), (own, f"students of {dataset}", STUDENT)):
        for number, path in enumerate(paths):
            loss = np.array(read_json(path)["loss"])
            width = max(1, len(loss) // 40)
            smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
            steps = np.arange(len(smooth)) + width
            axes.plot(
                steps,
                smooth,
                color=color,
                alpha=0.6,
                linewidth=1,
                label=f"{name} (one line a seed)" if number == 0 else None,
            )
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per completion token)")
    set_title(axes, f"Training on {dataset} numbers (running mean of {width} steps)")
    axes.legend(frameon=False, fontsize=8)
    save(figure, plot)
