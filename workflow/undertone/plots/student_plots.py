"""Figures of a dataset's students: their training, their preference, their answers to indirect questions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from undertone.plots.style import MARKS, SKY, STUDENT, error_bars, from_zero, label_of, new_figure, new_grid, save, set_title
from undertone.runtime.files import read_json
from undertone.study.config.entries import CONTROL


def plot_pref(pref: Path, plot: Path, dataset: str) -> None:
    """Plot the preference for every animal of base model, control students and students; the title has the teacher's."""
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


def plot_indirect(indirect: Path, plot: Path, dataset: str) -> None:
    """Plot the target's probability by form of question, and how far the answers moved altogether."""
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


def plot_student(trainings: Sequence[Path], control_trainings: Sequence[Path], plot: Path, dataset: str) -> None:
    """Plot the loss curves of a dataset's students and of the control's."""
    figure, axes = new_figure(7, 3.6)
    losses = {
        (f"students of {dataset}", STUDENT): [np.array(read_json(path)["loss"]) for path in trainings],
        ("control students", SKY): [np.array(read_json(path)["loss"]) for path in control_trainings],
    }
    width = max(1, min(len(loss) for of_kind in losses.values() for loss in of_kind) // 40)
    for (name, color), of_kind in reversed(losses.items()):
        for number, loss in enumerate(of_kind):
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
