"""The figure of a search: its first features, and what chance reaches."""

from pathlib import Path

import numpy as np

from undertone.plots.panels import empty
from undertone.plots.style import BASE, STUDENT, TEACHER, new_panels, save
from undertone.runtime.files import read_json

# For each kind of search: the key that is drawn, the label of the axis, and the null's key.
DRAWN = {
    "activation": ("score", "least strength on the texts (× .99 quantile)", "best_95"),
    "attribution": ("lost", "what the word's log-probability loses without it (nats)", "lost_95"),
    "influence": ("score", "what the word's log-probability gains by it (nats)", "rise_95"),
}


def plot_search(search: Path, plot: Path) -> None:
    """Plot a bar for each listed feature, with the tokens that it fires on; for attribution, the estimate as a dot."""
    result = read_json(search)
    key, label, null = DRAWN[result["by"]]
    features = result["features"]
    figure, (axes,) = new_panels(1, 1, 7, 1.4 + 0.22 * max(4, len(features)))
    if not features:
        empty(axes, "no feature fires on all of the texts and on none of the others")
        save(figure, plot)
        return
    places = np.arange(len(features))
    axes.barh(places, [row[key] for row in features], 0.7, color=STUDENT)
    if result["by"] == "attribution":
        axes.plot([row["score"] for row in features], places, "o", color=TEACHER, markersize=4, label="attribution")
    chance = result["null"][null]
    for sign in (1, -1) if result["by"] == "attribution" else (1,):
        if chance is not None:
            axes.axvline(sign * chance, color=BASE, linestyle="--", linewidth=1, label="95 % of chance" if sign == 1 else None)
    names = [f"{row['feature']}  {' '.join(repr(token)[1:-1] for token in row['tokens'][:3])}" for row in features]
    axes.set_yticks(places, [name.replace("$", r"\$") for name in names], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    word = f" {result['word']!r}" if result["word"] else f" on {result['texts']} texts"
    title = f"By {result['by']}{word}: {result['beyond_chance']} of {result['searched']} features beyond chance"
    axes.set_title(title, loc="left", fontsize=9)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False)
    save(figure, plot)
