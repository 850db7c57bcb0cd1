"""The figure of the time and memory that finished jobs took."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from undertone.compare.costs import HOUR
from undertone.plots.style import SKY, STUDENT, n_of, new_panels, save
from undertone.runtime.files import read_json

MEGABYTES = 1000.0


def plot_costs(costs: Path, plot: Path) -> None:
    """Plot total hours, seconds of a job and peak memory for each rule in `costs.json`, the most expensive on top."""
    costs_json = read_json(costs)
    rules = costs_json["rules"]
    figure, [hours, seconds, memory] = new_panels(1, 3, 12, max(3.2, 0.24 * len(rules) + 1.6), sharey=True)
    pairs(hours, [rule["wall_s"] / HOUR for rule in rules], "time", [rule["gpu_hours"] for rule in rules], "GPU-hours")
    hours.set_xlabel("hours, all jobs of the rule")
    draw_jobs(seconds, rules)
    held = [(rule["gpu_mb"] or 0) / MEGABYTES for rule in rules]
    pairs(memory, [rule["ram_mb"] / MEGABYTES for rule in rules], "main memory", held, "GPU memory")
    memory.set_xlabel("GB, the most that one job needed")
    hours.set_yticks(range(len(rules)), [f"{rule['rule']} ({rule['jobs']})" for rule in rules], fontsize=8)
    hours.set_ylim(len(rules) - 0.4, -0.6)
    figure.suptitle(title(costs_json), x=0.01, ha="left", fontsize=9)
    save(figure, plot)


def pairs(axes: Axes, first: list[float], first_name: str, second: list[float], second_name: str) -> None:
    """Draw two bars for each rule, or only the first if no rule has a second value."""
    y = np.arange(len(first))
    both = any(second)
    height = 0.38 if both else 0.7
    axes.barh(y - (0.2 if both else 0), first, height, color=SKY, label=first_name)
    if both:
        axes.barh(y + 0.2, second, height, color=STUDENT, label=second_name)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def draw_jobs(axes: Axes, rules: list[dict[str, Any]]) -> None:
    """Draw the median time of each rule's jobs, and the range from the fastest to the slowest."""
    y = np.arange(len(rules))
    median = np.array([rule["median_s"] for rule in rules])
    ends = np.array([[rule["fastest_s"], rule["slowest_s"]] for rule in rules]).T
    axes.errorbar(
        median,
        y,
        xerr=np.abs(ends - median),
        fmt="o",
        color="black",
        markersize=4,
        capsize=2,
        linewidth=1,
        label="median, range",
    )
    axes.set_xscale("log")
    axes.set_xlabel("seconds, one job")
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def title(costs_json: dict[str, Any]) -> str:
    """Return the total, the GPUs, and how many records are left out."""
    total = costs_json["total"]
    parts = [n_of(total["jobs"], "finished job"), f"{total['wall_s'] / HOUR:.2f} hours"]
    parts += [f"{total['gpu_hours']:.2f} GPU-hours on {', '.join(costs_json['gpus'])}" if costs_json["gpus"] else "no GPU"]
    parts += [f"{n_of(costs_json['left_out'], 'older record')} left out"] if costs_json["left_out"] else []
    return "; ".join(parts) + ". In brackets: jobs of the rule"
