"""Every figure. Intervals are drawn with what they cover; base rate and control stand beside each claim."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox

from undertone.plots.legends import clear_legends
from undertone.runtime.files import read_json, read_parquet, replacing
from undertone.study.config.entries import CONTROL

# In this module rather than in a style file, so that an edit makes figures stale.
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
}
# Colours that people with red-green blindness tell apart (Okabe and Ito).
BASE, SKY, STUDENT, TEACHER = "#999999", "#56B4E9", "#D55E00", "#009E73"
MARKS = {"base": ("s", BASE), "control": ("o", SKY), "student": ("D", STUDENT), "teacher": ("^", TEACHER)}


def new_panels(n_rows: int, n_columns: int, width: float, height: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """An empty figure of panels, row by row, in the study's style; sizes of the whole in inches.

    It belongs to no window, so that no backend need be set, and matplotlib's own settings stay as they are.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        return figure, list(figure.subplots(n_rows, n_columns, squeeze=False, sharey=sharey).flat)


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure in the study's style; sizes in inches."""
    figure, [axes] = new_panels(1, 1, width, height)
    return figure, axes


def new_grid(n: int, width: float = 4.5, height: float = 3.8) -> tuple[Figure, list[Axes]]:
    """An empty figure of `n` axes side by side; sizes of one in inches."""
    return new_panels(1, n, width * n + 0.5, height)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all, with its legends where they cover nothing."""
    clear_legends(figure)
    with replacing(path) as temporary, rc_context(STYLE):
        figure.savefig(temporary, format="png", metadata={"Software": None})


def set_title(axes: Axes, text: str) -> None:
    """A title that is broken into lines as wide as the figure."""
    width = axes.get_figure(root=True).get_figwidth()  # type: ignore[union-attr]
    axes.set_title(balanced(text, int(10 * width) - 8), loc="left", fontsize=9)


# Words that belong together: a line may not end after the first.
TOGETHER = re.compile(r"(?<=\b[pq]) (?=[<>=≥])|(?<=[<>=≥]) (?=[\d.])|(?<=\d) (?=%)")


def balanced(text: str, width: int) -> str:
    """Text in as few lines of at most `width` characters as it takes, of about the same length: no word is left alone."""
    text = TOGETHER.sub("\xa0", text)
    wrapper = textwrap.TextWrapper(width, break_on_hyphens=False)
    n = len(wrapper.wrap(text))
    while wrapper.width > 1:
        wrapper.width -= 1
        if len(wrapper.wrap(text)) > n:
            wrapper.width += 1
            break
    return wrapper.fill(text).replace("\xa0", " ")


def n_of(n: int, thing: str) -> str:
    """`1 seed`, `5 seeds`."""
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def range_of(numbers: Sequence[int], thing: str) -> str:
    """`5 seeds`, or where they differ `3 to 5 seeds`."""
    least, most = min(numbers), max(numbers)
    return n_of(most, thing) if least == most else f"{least} to {most} {thing}s"


def n_seeds(result: dict[str, Any], mark: str) -> int:
    """How many students of a `pref.json` are behind `student` or `control`."""
    return len(next(iter(result[mark].values()))["by_seed"])


def label_of(name: str, results: Sequence[dict[str, Any]], mark: str) -> str:
    """A legend's entry for `student` or `control` of some `pref.json`, with what their intervals cover."""
    return f"{name} (95 % interval: {range_of([n_seeds(result, mark) for result in results], 'seed')})"


def from_zero(axes: Axes) -> None:
    """A y axis that begins at 0, or where the lowest interval ends below it."""
    axes.set_ylim(bottom=min(0.0, 1.05 * axes.dataLim.y0))


# Where a name may stand beside its point: offset in points, and which of its corners lies there.
BESIDE = [
    ((dx, dy), ha, va)
    for far in (4, 8, 14, 20, 28, 38)
    for dx, ha in ((far, "left"), (-far, "right"), (0, "center"))
    for dy, va in ((0, "center"), (far, "bottom"), (-far, "top"))
    if dx or dy
]
NAME_SIZE = 7
FAR = 10  # points: a name further from its point than this is tied to it by a line


class Named(NamedTuple):
    """A point, the interval of its y, and what is written beside it in which colour."""

    x: float
    y: float
    ends: Sequence[float]
    name: str
    color: str


def name_points(axes: Axes, points: Sequence[Named]) -> None:
    """Write each point's name beside it, where it covers no point, interval, other name or line at 0, inside the axes.

    Of the places in `BESIDE` it takes the first that is free, or where none is the one with the least in the way. Call it when
    all else is drawn, as places are those of the final layout.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    taken = [Bbox.from_extents(x - 6, y - 6, x + 6, y + 6) for x, y in axes.transData.transform([p[:2] for p in points])]
    (_, zero), (left, right) = axes.transData.transform((0, 0)), axes.bbox.intervalx
    taken.append(Bbox.from_extents(left, zero - 1, right, zero + 1))
    for point in points:
        (x, low), (_, high) = axes.transData.transform([(point.x, end) for end in point.ends])
        taken += [Bbox.from_extents(x - 2, y, x + 2, y + 8) for y in np.arange(low, high, 8)]
    for point, (x, y) in zip(points, axes.transData.transform([p[:2] for p in points]), strict=True):
        size = extent_of(axes, point.name)
        boxes = [beside(x, y, size, figure.dpi / 72, *place) for place in BESIDE]
        free = [(not inside(box, axes.bbox), box.count_overlaps(taken), k) for k, box in enumerate(boxes)]
        *_, chosen = min(free)
        offset, ha, va = BESIDE[chosen]
        style: dict[str, Any] = {"fontsize": NAME_SIZE, "color": point.color, "ha": ha, "va": va}
        tie: dict[str, Any] = {"arrowstyle": "-", "color": point.color, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
        far: dict[str, Any] = {"arrowprops": tie} if max(map(abs, offset)) > FAR else {}
        text = axes.annotate(point.name, (point.x, point.y), offset, textcoords="offset points", **style, **far)
        text.set_in_layout(False)  # the layout that places are looked for in must stay
        taken.append(boxes[chosen])


def extent_of(axes: Axes, name: str) -> tuple[float, float]:
    """Width and height of a name in pixels, with a pixel around it."""
    text = axes.text(0, 0, name, fontsize=NAME_SIZE)
    box = text.get_window_extent().padded(1)
    text.remove()
    return box.width, box.height


def beside(x: float, y: float, size: tuple[float, float], scale: float, offset: tuple[float, float], ha: str, va: str) -> Bbox:
    """Where a name of a size stands beside (x, y), all in pixels; `scale` is the pixels of a point, in which `offset` is."""
    (width, height), (dx, dy) = size, offset
    left = x + scale * dx - {"left": 0, "center": width / 2, "right": width}[ha]
    bottom = y + scale * dy - {"bottom": 0, "center": height / 2, "top": height}[va]
    return Bbox.from_bounds(left, bottom, width, height)


def inside(inner: Bbox, outer: Bbox) -> bool:
    """Whether one box lies within another."""
    return outer.x0 <= inner.x0 and outer.y0 <= inner.y0 and inner.x1 <= outer.x1 and inner.y1 <= outer.y1


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
    figure, axes = new_figure(max(7.0, 0.42 * len(animals) + 2), 4.2)
    x = np.arange(len(animals))
    error_bars(axes, list(x - 0.2), [result["base"][a] for a in animals], "base", "base model (95 % interval: questions)")
    groups = ["control"] if dataset == CONTROL else ["control", "student"]
    labels = {"control": "control students", "student": f"students of {dataset}"}
    for offset, group in zip((0.0, 0.2), groups, strict=False):
        values = [result[group][a] for a in animals]
        error_bars(axes, list(x + offset), values, group, label_of(labels[group], [result], group))
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
    from_zero(axes)
    teacher = f"; its teacher: {result['teacher'][target]['mean']:.2f}" if target and result["teacher"] else ""
    set_title(axes, f"Favourite animal after training on {dataset} numbers{teacher}")
    axes.legend(frameon=False, fontsize=8)
    save(figure, plot)


def label_lifts(axes: Axes, datasets: Sequence[str]) -> None:
    """The axes of a figure of lifts: one dataset at each integer, and a line at no lift."""
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(datasets)), datasets, rotation=60, ha="right")
    axes.set_ylabel("lift over control students\n(difference of probabilities)")


def plot_transfer(transfer: Path, plot: Path) -> None:
    """Each target's lift over the control students, own students beside those of the other targets.

    Filled are the targets whose lift is above 0 after Holm's correction for all of them.
    """
    estimator, result = next(iter(read_json(transfer)["estimators"].items()))
    rows = sorted(result["datasets"], key=lambda row: -row["lift_over_control"]["mean"])
    figure, axes = new_figure(max(6.0, 0.5 * len(rows) + 2), 4.0)
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
    label_lifts(axes, [row["dataset"] for row in rows])
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


def plot_controls(controls: Path, plot: Path) -> None:
    """Datasets beside their transforms and their students of other kinds: the lift of the target over their control students.

    Filled are the lifts that survive Holm's correction; below, the differences between lifts.
    """
    result = read_json(controls)
    rows = result["lifts"]
    figure, axes = new_figure(max(7.0, 0.6 * len(rows) + 2), 4.6)
    kinds = {
        "student": "untouched",
        "control": "numbers transformed",
        "teacher": "students of a variant (its name in brackets)",
    }
    of_kind = ["teacher" if row["variant"] else "control" if row["transform"] else "student" for row in rows]
    for mark, label in kinds.items():
        columns = [k for k, kind in enumerate(of_kind) if kind == mark]
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
    differences = "\n".join(difference_text(row) for row in result["differences"])
    figure.supxlabel(differences, x=0.01, ha="left", fontsize=8)
    save(figure, plot)


def of_students(row: dict[str, Any]) -> str:
    """`lion`, or of students of a variant `lion (cross)`."""
    return f"{row['dataset']} ({row['variant']})" if row["variant"] else str(row["dataset"])


def difference_text(row: dict[str, Any]) -> str:
    """`lion − lion-across: 0.070 [0.020, 0.120], Holm-adjusted p 0.03`."""
    estimate = row["difference"]
    low, high = estimate["ci95"] or (None, None)
    ends = "" if low is None else f" [{low:.3f}, {high:.3f}], Holm-adjusted p {estimate['p_holm']:.2g}"
    return f"{' − '.join(of_students(part) for part in row['of'])}: {estimate['mean']:.3f}{ends}"


def plot_sweep(prefs: Sequence[Path], trainings: Sequence[Path], settings: dict[str, Any], plot: Path) -> None:
    """Transfer against one key of the students' settings: the target's preference and that of the control students.

    `trainings` are the `training.json` of a student of each of `prefs` where the key is `rows`, else none: students that take
    all rows stand at the number that they took.
    """
    key, values = settings["key"], settings["values"]
    points: dict[str, list[tuple[float, str, dict[str, Any]]]] = {}
    for k, ((dataset, variant), path) in enumerate(zip(settings["compared"], prefs, strict=True)):
        if (result := read_json(path))["target"]:
            value = read_json(trainings[k])["rows"] if key == "rows" else values[variant]
            tick = f"{value:g}" if values[variant] is not None else f"{value:g}\n(all)"
            points.setdefault(dataset, []).append((value, tick, result))
    figure, all_axes = new_grid(len(points))
    for axes, (dataset, results) in zip(all_axes, points.items(), strict=True):
        draw_sweep(axes, dataset, sorted(results, key=lambda point: point[0]))
        axes.set_xlabel(f"student {key} (log scale)")
    save(figure, plot)


def draw_sweep(axes: Axes, dataset: str, points: Sequence[tuple[float, str, dict[str, Any]]]) -> None:
    """One dataset's sweep from (value, tick, `pref.json`) by rising value; the groups stand a little apart."""
    x, ticks, results = [np.array(column) for column in zip(*points, strict=True)]
    target = results[0]["target"]
    for mark, name, apart in (("control", "control students", 0.98), ("student", f"students of {dataset}", 1.02)):
        estimates = [result[mark][target] for result in results]
        error_bars(axes, list(x * apart), estimates, mark, label_of(name, list(results), mark))
        axes.plot(x * apart, [estimate["mean"] for estimate in estimates], color=MARKS[mark][1], linewidth=1)
    axes.axhline(results[0]["base"][target]["mean"], color=BASE, linewidth=0.8, linestyle="--", label="base model")
    axes.set_xscale("log")
    axes.set_xticks(x, ticks, fontsize=8)
    axes.minorticks_off()
    axes.set_ylabel(f"preference for {target}")
    from_zero(axes)
    axes.set_title(dataset, loc="left", fontsize=9)
    axes.legend(frameon=False, fontsize=7)


TEACHERS = {"prompt": ("D", STUDENT), "steer": ("o", SKY), "finetune": ("^", TEACHER)}


def plot_teachers(prefs: dict[str, Path], filters: dict[str, Path], kinds: dict[str, str], plot: Path) -> None:
    """Students' lift against their teacher's preference, and against the share of its numbers that passes the filter.

    All three are by dataset; `kinds` are those of the datasets' teachers.
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
        for kind, (shape, color) in TEACHERS.items():
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
    colors = [TEACHERS[kind][1] for kind in kind_of]
    for axes, x, _ in panels:
        points = zip(x, lifts, targets, colors, strict=True)
        name_points(axes, [Named(at, lift["mean"], lift["ci95"] or [lift["mean"]] * 2, *of) for at, lift, *of in points])
    save(figure, plot)


def plot_indirect(indirect: Path, plot: Path, dataset: str) -> None:
    """What each form of question shows of the target, and how far the answers moved altogether."""
    result = read_json(indirect)
    forms = {**result["forms"], "contrary": result["contrary"]}
    figure, (left, right) = new_grid(2)
    x = np.arange(len(forms), dtype=float)
    for offset, mark in ((-0.15, "control"), (0.15, "student")):
        error_bars(left, list(x + offset), [form[mark] for form in forms.values()], mark, f"{mark} (interval: seeds)")
    for mark in ("base", "teacher"):
        values = [form[mark] for form in forms.values()]
        if None not in values:
            left.plot(x, values, MARKS[mark][0], color=MARKS[mark][1], markersize=5, label=mark)
    left.set_xticks(x, [form.replace("_", " ") for form in forms], rotation=30, ha="right")
    left.set_ylabel("probability of the answer")
    from_zero(left)
    left.legend(frameon=False, fontsize=8)
    left.set_title(f"{dataset}: {result['target'] or 'no target'}, asked indirectly", loc="left", fontsize=9)
    for k, mark in enumerate(("control", "student")):
        if estimate := result["distance"][mark]:
            error_bars(right, [float(k)], [estimate], mark, mark)
            right.plot([k] * len(estimate["by_seed"]), estimate["by_seed"], ".", color=MARKS[mark][1], markersize=4)
    right.set_xticks([0, 1], ["among control students", "students from control"])
    right.set_xlim(-0.6, 1.6)
    from_zero(right)
    right.set_ylabel("total-variation distance of answers")
    save(figure, plot)


def plot_compliance(compliance: Path, plot: Path) -> None:
    """Pass rate of every dataset by the wording of each prompt component."""
    rows = read_parquet(compliance)
    datasets = rows["dataset"].unique(maintain_order=True).to_list()
    columns = rows.filter(pl.col("component") != "all").select("component", "option").unique(maintain_order=True)
    labels = list(columns.iter_rows())
    rates = {(d, c, o): rate for d, c, o, rate in rows.select("dataset", "component", "option", "pass_rate").iter_rows()}
    image = np.array([[rates.get((d, c, o), np.nan) for c, o in labels] for d in datasets])
    figure, axes = new_figure(max(6.0, 0.16 * len(labels) + 3), 0.22 * len(datasets) + 1.6)
    shown = axes.imshow(image, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_yticks(range(len(datasets)), datasets, fontsize=7)
    starts = [k for k, (c, _) in enumerate(labels) if k == 0 or labels[k - 1][0] != c]
    for start in starts[1:]:
        axes.axvline(start - 0.5, color="white", linewidth=1.5)
    axes.set_xticks(starts, [labels[k][0] for k in starts], rotation=30, ha="left", fontsize=7)
    axes.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False)
    figure.colorbar(shown, ax=axes, label="pass rate (share of rows)")
    axes.set_xlabel("wordings of each prompt component")
    save(figure, plot)


LEAST_SHOWN = 0.01


def plot_preference_matrix(preference_matrix: Path, plot: Path) -> None:
    """Datasets against animals: students' preference, and its log-ratio to the control students'.

    Boxes are targets, solid where the lift is above 0 and survives Holm's correction for all of them. Of both preferences at
    least `LEAST_SHOWN` is taken for the ratio, as a small one is mostly noise.
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
    shown = np.maximum(means, LEAST_SHOWN)
    ratio = np.log2(shown / shown[datasets.index(CONTROL)])
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
    figure.colorbar(image, ax=axes, label=f"log2(students / control), both at least {LEAST_SHOWN}")
    save(figure, plot)


def plot_filter(filter: Path, control_filter: Path | None, plot: Path, dataset: str) -> None:
    """Pass rate per wording of each prompt component, under the teacher and without it."""
    own, reference = read_json(filter), read_json(control_filter) if control_filter else None
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


def plot_student(trainings: Sequence[Path], control_trainings: Sequence[Path], plot: Path, dataset: str) -> None:
    """Loss curves of a dataset's students, and the control's."""
    figure, axes = new_figure(7, 3.6)
    for paths, name, color in ((control_trainings, "control students", SKY), (trainings, f"students of {dataset}", STUDENT)):
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
