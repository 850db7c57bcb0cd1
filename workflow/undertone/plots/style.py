"""Figures in the study's style: colours and marks, sizes, titles, intervals with what they cover."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from undertone.plots.legends import clear_legends
from undertone.runtime.files import replacing

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
    """Create an empty figure of panels, row by row, in the study's style; sizes are of the whole figure, in inches.

    It belongs to no window, so no backend need be set, and matplotlib's own settings stay as they are.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        return figure, list(figure.subplots(n_rows, n_columns, squeeze=False, sharey=sharey).flat)


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Create an empty figure in the study's style; sizes are in inches."""
    figure, [axes] = new_panels(1, 1, width, height)
    return figure, axes


def new_grid(n: int, width: float = 4.5, height: float = 3.8) -> tuple[Figure, list[Axes]]:
    """Create an empty figure of `n` axes side by side; sizes are of one of them, in inches."""
    return new_panels(1, n, width * n + 0.5, height)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG atomically, with legends where they cover nothing; its metadata hold every text of the figure."""
    clear_legends(figure)
    with replacing(path) as temporary, rc_context(STYLE):
        figure.savefig(temporary, format="png", metadata={"Software": None, "Description": "\n".join(texts_of(figure))})


def texts_of(figure: Figure) -> list[str]:
    """Return the titles, labels, names and legends of a figure, each once."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_ticklabels()  # this call writes the labels
    return [text for text in dict.fromkeys(artist.get_text() for artist in figure.findobj(Text)) if text]


def set_title(axes: Axes, text: str) -> None:
    """Set a title, wrapped to the width of the figure."""
    width = axes.get_figure(root=True).get_figwidth()  # type: ignore[union-attr]
    axes.set_title(balanced(text, int(10 * width) - 8), loc="left", fontsize=9)


# Words that belong together: a line may not end after the first.
UNBROKEN_SPACE = re.compile(r"(?<=\b[pq]) (?=[<>=≥])|(?<=[<>=≥]) (?=[\d.])|(?<=\d) (?=%)")


def balanced(text: str, width: int) -> str:
    """Wrap text into as few lines of at most `width` characters as possible, of similar length: no word is left alone."""
    text = UNBROKEN_SPACE.sub("\xa0", text)
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
    """`5 seeds`, or `3 to 5 seeds` if the numbers differ."""
    least, most = min(numbers), max(numbers)
    return n_of(most, thing) if least == most else f"{least} to {most} {thing}s"


def n_seeds(result: dict[str, Any], mark: str) -> int:
    """Return how many students of a `pref.json` are behind `student` or `control`."""
    return len(next(iter(result[mark].values()))["by_seed"])


def label_of(name: str, results: Sequence[dict[str, Any]], mark: str) -> str:
    """Return a legend's entry for `student` or `control` of some `pref.json`, with what their intervals cover."""
    return f"{name} (95 % interval: {range_of([n_seeds(result, mark) for result in results], 'seed')})"


def from_zero(axes: Axes) -> None:
    """Begin the y axis at 0, or just below the lowest interval if that is negative."""
    axes.set_ylim(bottom=min(0.0, 1.05 * axes.dataLim.y0))


def error_bars(axes: Axes, x: Sequence[float], estimates: Sequence[dict[str, Any]], mark: str, label: str) -> None:
    """Draw means with their 95 % intervals."""
    marker, color = MARKS[mark]
    means = np.array([e["mean"] for e in estimates])
    ends = np.array([e["ci95"] or [e["mean"]] * 2 for e in estimates])
    spread = np.abs(ends.T - means)
    axes.errorbar(x, means, spread, fmt=marker, color=color, markersize=5, capsize=2, linewidth=1, label=label)
