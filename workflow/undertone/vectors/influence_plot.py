"""Figure of what a feature causes: its raised tokens, the preference that moves most, and KL, by multiple."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from undertone.plots.panels import heading, listed
from undertone.plots.style import BASE, SKY, STUDENT, TEACHER, new_panels, save
from undertone.runtime.files import read_json

NULL_COLOURS = (SKY, BASE)
TITLES = {"add": "added", "clamp": "held"}


def plot_influence(influence: Path, plot: Path) -> None:
    """Draw a row for each mode, with a panel for each reading."""
    result = read_json(influence)
    modes = list(dict.fromkeys(row["mode"] for row in result["doses"]))
    figure, panels = new_panels(len(modes), 3, 13, 3.7 * len(modes) + 0.4)
    moves = result["moves"]["candidate"]
    for k, mode in enumerate(modes):
        rows = [row for row in result["doses"] if row["mode"] == mode]
        left, middle, right = panels[3 * k : 3 * k + 3]
        draw_readings(left, rows, "rise", [row["rise"] for row in rows])
        left.set_ylabel("rise of their logits against all tokens, nats")
        heading(left, f"Its tokens ({listed(result['raised_tokens'])}), {TITLES[mode]}")
        draw_readings(middle, rows, "lift", [row["lift"]["mean"] for row in rows], [row["lift"]["ci95"] for row in rows])
        middle.set_ylabel(f"lift of the preference for {moves}")
        heading(middle, f"Preference for {moves}, base model {result['base']['preference'][moves]:.3f}")
        draw_side_effects(right, rows, result["base"]["loss"])
        for axes in (left, middle, right):
            axes.set_xticks(range(len(rows)), [f"{row['multiple']:g}" for row in rows])
            axes.set_xlabel(f"× its greatest activation, {TITLES[mode]} at every token")
            axes.legend(frameon=False, fontsize=7)
    warning = f"Caution: {result['warning']}. " if result["warning"] else ""
    figure.suptitle(f"{plot.parents[2].name}, {warning}{result['verdict']}", fontsize=9, x=0.01, ha="left", wrap=True)
    save(figure, plot)


def draw_readings(
    axes: Axes, rows: Sequence[dict[str, Any]], key: str, values: Sequence[float], ends: Sequence[list[float] | None] = ()
) -> None:
    """Draw a reading by multiple, with its interval over questions if it has one, and a band for each kind of nulls."""
    x = np.arange(len(rows))
    for colour, kind in zip(NULL_COLOURS, rows[0]["nulls"], strict=False):
        nulls = [row["nulls"][kind] for row in rows]
        low, high = ([null[key][name] for null in nulls] for name in ("quantile_05", "quantile_95"))
        axes.fill_between(x, low, high, color=colour, alpha=0.35, linewidth=0, label=f"90 % of {nulls[0]['n']}: {kind}")
    axes.plot(
        x, values, "D-", color=STUDENT, markersize=4, linewidth=1, label="feature" if not ends else "feature (95 %: questions)"
    )
    for place, interval in zip(x, ends, strict=False):
        axes.vlines(place, *(interval or (np.nan, np.nan)), color=STUDENT, linewidth=1)
    axes.axhline(0, color="black", linewidth=0.8)


def draw_side_effects(axes: Axes, rows: Sequence[dict[str, Any]], loss: float) -> None:
    """Draw KL and loss on text."""
    for key, label, colour in (("kl", "KL(steered ‖ base)", STUDENT), ("loss", "loss", TEACHER)):
        axes.plot([row[key] for row in rows], "o-", color=colour, markersize=3, linewidth=1, label=label)
    axes.axhline(loss, color=TEACHER, linestyle=":", linewidth=1, label="loss, base model")
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("nats per token of text")
    heading(axes, "Side effects on text")
