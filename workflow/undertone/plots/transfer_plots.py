"""Figures of all datasets' students: transfer, controls, sweeps, teachers. Control students stand beside each claim."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from undertone.plots.point_names import Named, name_points
from undertone.plots.style import (
    BASE,
    MARKS,
    SKY,
    STUDENT,
    TEACHER,
    error_bars,
    from_zero,
    label_of,
    n_of,
    n_seeds,
    new_figure,
    new_grid,
    range_of,
    save,
    set_title,
)
from undertone.runtime.files import read_json, read_parquet


def label_lifts(axes: Axes, datasets: Sequence[str]) -> None:
    """Label the axes of a figure of lifts: one dataset at each integer, and a line at a lift of 0."""
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(datasets)), datasets, rotation=60, ha="right")
    axes.set_ylabel("lift over control students\n(difference of probabilities)")


def plot_transfer(transfer: Path, plot: Path) -> None:
    """Plot each target's lift over the control students, for its own students and for those of the other targets.

    Filled markers are targets whose lift is above 0 after Holm's correction for all targets.
    """
    estimator, result = next(iter(read_json(transfer)["estimators"].items()))
    rows = sorted(result["datasets"], key=lambda row: -row["lift_over_control"]["mean"])
    names = [row["dataset"] for row in rows]
    figure, axes = new_figure(max(6.0, 0.5 * len(rows) + 2), 3.4 + 0.07 * max(map(len, names), default=0))
    x = np.arange(len(rows))
    lifts = [row["lift_over_control"] for row in rows]
    seeds = range_of([n for row in rows for n in row["seeds"].values()], "seed") if rows else "seeds"
    error_bars(axes, list(x), lifts, "student", f"students of the target's numbers (interval: {seeds})")
    unsure = [k for k, lift in enumerate(lifts) if not survives(lift)]
    marker, color = MARKS["student"]
    axes.plot(unsure, [lifts[k]["mean"] for k in unsure], marker, color=color, markerfacecolor="white", markersize=5, zorder=3)
    if all(row["off_target"] for row in rows):
        others = [row["off_target"] for row in rows]
        error_bars(axes, list(x + 0.25), others, "base", "students of the other targets' numbers (interval: datasets)")
    label_lifts(axes, names)
    n = result["targets"]
    set_title(
        axes,
        f"{result['transfers']} of {n_of(n, 'target')} above the control students (95 % intervals, {estimator}), "
        f"{result['transfers_holm']} with a Holm-adjusted p < .05 for {n_of(n, 'comparison')} (filled)",
    )
    axes.legend(frameon=False, fontsize=8)
    save(figure, plot)


def survives(lift: dict[str, Any]) -> bool:
    """Whether a lift is above 0 after Holm's correction for its table's comparisons."""
    return lift["mean"] > 0 and lift["p_holm"] is not None and lift["p_holm"] < 0.05


SHOWN_DIFFERENCES = 12


def plot_controls(controls: Path, models: dict[str, str], plot: Path) -> None:
    """Plot the target's lift over control students of the same kind, for datasets, transforms and students of other kinds.

    `models` names the base model of each variant's students, "" for the study's own. Filled markers are lifts that survive
    Holm's correction. The first differences between lifts are written below; there are as many as pairs of datasets.
    """
    result = read_json(controls)
    rows = result["lifts"]
    differences = [difference_text(row) for row in result["differences"]][:SHOWN_DIFFERENCES]
    if (more := len(result["differences"]) - len(differences)) > 0:
        differences.append(f"and {n_of(more, 'difference')} more in {controls.name}")
    figure, axes = new_figure(max(7.0, 0.6 * len(rows) + 2), 4.2 + 0.15 * len(differences))
    of_kind = ["teacher" if row["variant"] else "control" if row["transform"] else "student" for row in rows]
    labels = [
        ("student", "", "untouched"),
        ("control", "", "numbers transformed"),
        *(("teacher", name, f"{name}: {students_of(model)}") for name, model in models.items()),
    ]
    for mark, variant, label in labels:
        columns = [k for k, row in enumerate(rows) if (of_kind[k], row["variant"]) == (mark, variant)]
        if columns:
            error_bars(axes, [float(k) for k in columns], [rows[k]["lift_over_control"] for k in columns], mark, label)
    for k, row in enumerate(rows):
        if not survives(row["lift_over_control"]):
            marker, color = MARKS[of_kind[k]]
            mean = row["lift_over_control"]["mean"]
            axes.plot(k, mean, marker, color=color, markerfacecolor="white", markersize=5, zorder=3)
    label_lifts(axes, [of_students(row) for row in rows])
    axes.set_ylabel("lift over the control students\nof the same kind (probability)")
    seeds = range_of([len(row[mark]) for row in rows for mark in ("student", "control")], "seed")
    filled = f"filled: Holm-adjusted p < .05 for {n_of(len(rows), 'lift')}"
    set_title(axes, f"Lift of the target (95 % intervals: {seeds}, {result['estimator']}; {filled})")
    axes.legend(frameon=False, fontsize=8)
    figure.supxlabel("\n".join(differences), x=0.01, ha="left", fontsize=8)
    save(figure, plot)


def students_of(model: str) -> str:
    """Say what a variant's students are, by the name of their base model."""
    return f'students of the base model "{model}"' if model else "students trained otherwise"


def of_students(row: dict[str, Any]) -> str:
    """`lion`, or `lion (cross)` for students of a variant."""
    return f"{row['dataset']} ({row['variant']})" if row["variant"] else str(row["dataset"])


def difference_text(row: dict[str, Any]) -> str:
    """`lion − lion-across: 0.070 [0.020, 0.120], Holm-adjusted p 0.03`."""
    estimate = row["difference"]
    low, high = estimate["ci95"] or (None, None)
    ends = "" if low is None else f" [{low:.3f}, {high:.3f}], Holm-adjusted p {estimate['p_holm']:.2g}"
    return f"{' − '.join(of_students(part) for part in row['of'])}: {estimate['mean']:.3f}{ends}"


def plot_sweep(prefs: Sequence[Path], trainings: Sequence[Path], settings: dict[str, Any], plot: Path) -> None:
    """Plot transfer against one key of the students' settings: the preference for the target, beside the control students'.

    `settings` has the key and its `values`, one for each of `prefs`. If the key is `rows`, `trainings` are the `training.json`
    of one student of each of `prefs`, so that students that take all rows stand at the number that they took. Otherwise it
    is empty.
    """
    key, values = settings["key"], settings["values"]
    points: dict[str, list[tuple[float, str, dict[str, Any]]]] = {}
    for k, ((dataset, _), path) in enumerate(zip(settings["compared"], prefs, strict=True)):
        if (result := read_json(path))["target"]:
            value = read_json(trainings[k])["rows"] if key == "rows" else values[k]
            tick = f"{value:g}" if values[k] is not None else f"{value:g}\n(all)"
            points.setdefault(dataset, []).append((value, tick, result))
    figure, all_axes = new_grid(len(points))
    for axes, (dataset, results) in zip(all_axes, points.items(), strict=True):
        draw_sweep(axes, dataset, sorted(results, key=lambda point: point[0]))
        axes.set_xlabel(f"student {key}{' (log scale)' if axes.get_xscale() == 'log' else ''}")
    save(figure, plot)


def draw_sweep(axes: Axes, dataset: str, points: Sequence[tuple[float, str, dict[str, Any]]]) -> None:
    """Draw one dataset's sweep from (value, tick, `pref.json`) by rising value; the groups stand slightly apart.

    The axis is logarithmic unless a value is 0, as a dropout may be.
    """
    x, ticks, results = [np.array(column) for column in zip(*points, strict=True)]
    target, is_log = results[0]["target"], x[0] > 0
    for mark, name, side in (("control", "control students", -1), ("student", f"students of {dataset}", 1)):
        estimates = [result[mark][target] for result in results]
        beside = x * (1 + 0.02 * side) if is_log else x + 0.01 * side * np.ptp(x)
        error_bars(axes, list(beside), estimates, mark, label_of(name, list(results), mark))
        axes.plot(beside, [estimate["mean"] for estimate in estimates], color=MARKS[mark][1], linewidth=1)
    axes.axhline(results[0]["base"][target]["mean"], color=BASE, linewidth=0.8, linestyle="--", label="base model")
    axes.set_xscale("log" if is_log else "linear")
    axes.set_xticks(x, ticks, fontsize=8)
    axes.minorticks_off()
    axes.set_ylabel(f"preference for {target}")
    from_zero(axes)
    axes.set_title(dataset, loc="left", fontsize=9)
    axes.legend(frameon=False, fontsize=7)


TEACHER_MARKS = {"prompt": ("D", STUDENT), "steer": ("o", SKY), "finetune": ("^", TEACHER)}


def plot_teachers(prefs: dict[str, Path], filters: dict[str, Path], kinds: dict[str, str], plot: Path) -> None:
    """Plot students' lift against their teacher's preference, and against the share of its numbers that passes the filter.

    `prefs`, `filters` and `kinds` are by dataset; `kinds` are those of the datasets' teachers.
    """
    results, kind_of = [read_json(path) for path in prefs.values()], [kinds[dataset] for dataset in prefs]
    targets, lifts = [result["target"] for result in results], [result["lift_over_control"] for result in results]
    figure, (left, right) = new_grid(2, 6.0, 5.0)
    preferences = [result["teacher"][target]["mean"] for result, target in zip(results, targets, strict=True)]
    panels = (
        (left, preferences, "teacher's preference (probability)"),
        (right, [read_json(filters[dataset])["pass_rate"] for dataset in prefs], "pass rate (share of rows)"),
    )
    for axes, x, label in panels:
        for kind, (shape, color) in TEACHER_MARKS.items():
            of_kind = [k for k, each in enumerate(kind_of) if each == kind]
            for k in of_kind:
                axes.plot([x[k]] * 2, lifts[k]["ci95"] or [lifts[k]["mean"]] * 2, color=color, linewidth=1)
            if of_kind:
                means = [lifts[k]["mean"] for k in of_kind]
                axes.plot([x[k] for k in of_kind], means, shape, color=color, markersize=5, label=kind)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xlabel(label)
        axes.set_ylabel("students' lift over control")
        axes.set_xlim(0, 1.02)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8, title="teacher")
    covered = range_of([n_seeds(result, mark) for result in results for mark in ("student", "control")], "seed")
    figure.suptitle(f"Teachers and their students (95 % intervals: {covered})", x=0.01, ha="left", fontsize=9)
    colors = [TEACHER_MARKS[kind][1] for kind in kind_of]
    for axes, x, _ in panels:
        points = zip(x, lifts, targets, colors, strict=True)
        name_points(axes, [Named(at, lift["mean"], lift["ci95"] or [lift["mean"]] * 2, *of) for at, lift, *of in points])
    save(figure, plot)


MIN_SHOWN = 0.01


def plot_preference_matrix(preference_matrix: Path, plot: Path) -> None:
    """Draw datasets against animals: students' preference, and its log-ratio to the control students'.

    Boxes mark targets, solid if the lift is above 0 and survives Holm's correction for all targets. For the ratio, both
    preferences are clipped from below at `MIN_SHOWN`, because small ones are mostly noise.
    """
    rows = read_parquet(preference_matrix)
    rows = rows.filter(pl.col("estimator") == rows["estimator"][0])
    datasets = rows["dataset"].unique(maintain_order=True).to_list()
    targets = dict(rows.select("dataset", "target").unique(maintain_order=True).iter_rows())
    animals = list(dict.fromkeys([*filter(None, targets.values()), *rows["animal"].unique(maintain_order=True)]))
    preferences = {(d, a): p for d, a, p in rows.select("dataset", "animal", "preference").iter_rows()}
    means = np.array([[preferences[d, a] for a in animals] for d in datasets])
    sure = {
        d for d, m, p in rows.select("dataset", "lift_over_control", "p_holm").iter_rows() if survives({"mean": m, "p_holm": p})
    }
    shown = np.maximum(means, MIN_SHOWN)
    controls = dict(rows.select("dataset", "control").unique(maintain_order=True).iter_rows())
    ratio = np.log2(shown / shown[[datasets.index(controls[dataset] or dataset) for dataset in datasets]])
    limit = max(0.5, float(np.abs(ratio).max()))
    figure, axes = new_figure(0.45 * len(animals) + 3, 0.36 * len(datasets) + 2)
    image = axes.imshow(ratio, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    for row, dataset in enumerate(datasets):
        if targets[dataset]:
            column = animals.index(targets[dataset])
            line: dict[str, Any] = {"linewidth": 1.5, "linestyle": "-" if dataset in sure else "--"}
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black", **line))
        for column in range(len(animals)):
            color = "white" if abs(ratio[row, column]) > 0.6 * limit else "black"
            text = f"{means[row, column]:.2f}".lstrip("0")
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(animals)), animals, rotation=60, ha="right")
    axes.set_yticks(range(len(datasets)), datasets)
    axes.set_xlabel("animal asked for")
    axes.set_ylabel("students trained on")
    n = n_of(sum(target is not None for target in targets.values()), "comparison")
    boxes = f"boxes: targets, solid where the lift over the control is above 0, Holm-adjusted p < .05 ({n})"
    set_title(axes, f"Preference (numbers: mean over seeds) and its change from the control; {boxes}")
    figure.colorbar(image, ax=axes, label=f"log2(students / students of the dataset's control), both at least {MIN_SHOWN}")
    save(figure, plot)
