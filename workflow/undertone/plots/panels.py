"""Parts of panels: titles, legends, axes of layers and animals, bars of features, maps. Empty panels say why."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from undertone.plots.style import BASE, STUDENT, TEACHER, balanced

Json = dict[str, Any]
LEVEL = 0.05
N_BARS = 12
BOX, OTHER = "#F0E442", "#888888"


def heading(axes: Axes, text: str) -> None:
    """Set a panel's title, wrapped to the width of the panel."""
    cell = axes.get_subplotspec()
    columns = cell.get_gridspec().ncols if cell else 1
    width = axes.get_figure(root=True).get_figwidth() / columns  # type: ignore[union-attr]
    axes.set_title(balanced(text, max(24, int(14 * width) - 17)), loc="left", fontsize=9)


def legend(axes: Axes, **options: Any) -> None:
    """Add a legend if anything has a label."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(**{"frameon": False, "fontsize": 7, **options})


def count_ticks(axis: Axis) -> None:
    """Write plain numbers at 1, 2 and 5 of each decade of a logarithmic axis: within one, matplotlib's own labels overlap."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axis.set_minor_formatter(NullFormatter())


def empty(axes: Axes, reason: str) -> None:
    """Leave a panel empty but for the reason."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, textwrap.fill(reason, 30), ha="center", va="center", color=BASE, transform=axes.transAxes)


def target_of(reading: Json, dataset: str) -> str | None:
    """Return the dataset's target from the reading, or from the settings in its stamp; None if neither has it."""
    if "target" in reading:
        target: str | None = reading["target"]
        return target
    sections = reading.get("stamp", {}).get("settings", {}).items()
    named = [section["target"] for name, section in sections if name.startswith(f"{dataset}/") and section.get("target")]
    return named[0] if named else None


def shown(token: str) -> str:
    """Return a token as a figure can show it: no bare white space, half characters or dollars; escapes for missing glyphs."""
    plain = token.replace("\ufffd", "‹byte›").strip() or token.replace(" ", "␣")
    safe = (c if c.isprintable() and ord(c) < 0x2E80 else c.encode("unicode_escape").decode() for c in plain)
    return "".join(safe).replace("$", r"\$")


def listed(tokens: Sequence[str], n: int = 3) -> str:
    """Join the first of some tokens on one line of at most 26 characters."""
    return textwrap.shorten(" · ".join(shown(token) for token in tokens[:n]), 26, placeholder=" …")


def p_text(p: float) -> str:
    """`p .03`, `p <.001`."""
    return "p <.001" if p < 0.001 else f"p {p:.2g}".replace("0.", ".")


def feature_labels(features: Sequence[int], animals: Mapping[str, int], tokens: Mapping[int, Sequence[str]]) -> list[str]:
    """Return a label like `463 (lion) just · dear` for each feature: its number, its animals and the tokens it raises."""
    owners: dict[int, list[str]] = {}
    for animal, feature in animals.items():
        owners.setdefault(feature, []).append(animal)
    return [
        " ".join(filter(None, [str(k), f"({', '.join(owners[k])})" if k in owners else "", listed(tokens.get(k, []))]))
        for k in features
    ]


def bars(
    axes: Axes,
    features: Sequence[int],
    values: Sequence[float],
    animals: Mapping[str, int],
    target: str | None,
    tokens: Mapping[int, Sequence[str]] | None = None,
) -> None:
    """Draw at most `N_BARS` features as bars from the top, in three colours: the target's, other animals', all others."""
    features, values = features[:N_BARS], values[:N_BARS]
    axes.xaxis.set_major_locator(MaxNLocator(6))
    colors = ["#BBBBBB" if k not in animals.values() else TEACHER for k in features]
    if target is not None and target in animals:
        colors = [STUDENT if k == animals[target] else color for k, color in zip(features, colors, strict=True)]
    axes.barh(range(len(features)), values, color=colors, height=0.75)
    names = {STUDENT: f"feature of {target}", TEACHER: "another animal's feature", "#BBBBBB": "other feature"}
    for color in dict.fromkeys(colors):
        axes.barh(0, 0, color=color, label=names[color])
    axes.set_yticks(range(len(features)), feature_labels(features, animals, tokens or {}), fontsize=7)
    axes.set_ylim(max(len(features), 1) - 0.4, -0.6)
    axes.axvline(0, color="black", linewidth=0.8)


def layer_ticks(axes: Axes, n_layers: int, beyond: Sequence[str] = ()) -> None:
    """Label an axis of layers, and to their right what acts at no single layer."""
    step = max(1, n_layers // 9)
    layers = list(range(0, n_layers, step))
    axes.set_xticks([*layers, *range(n_layers, n_layers + len(beyond))], [*map(str, layers), *beyond])
    for label in axes.get_xticklabels()[len(layers) :]:
        label.set(rotation=60, ha="right", fontsize=8)
    axes.set_xlabel("layer")


def mark_target(axes: Axes, animals: Sequence[str], target: str | None) -> None:
    """Label animals along x, with room on both sides and at least the width of four; a band marks the target."""
    beside = max(1.0, (6 - len(animals)) / 2)
    axes.set_xlim(-beside, len(animals) - 1 + beside)
    axes.set_xticks(range(len(animals)), animals, rotation=60, ha="right", fontsize=8)
    if target in animals:
        k = list(animals).index(str(target))
        axes.axvspan(k - 0.5, k + 0.5, color=BOX, alpha=0.35, zorder=0, label="target")


def greatest(image: Float[np.ndarray, "..."]) -> float:
    """Return the greatest absolute value that one or several maps show, which is the limit of their colours."""
    finite = np.abs(image[np.isfinite(image)])
    return max(1e-9, float(finite.max())) if len(finite) else 1.0


def heat(
    axes: Axes,
    image: Float[np.ndarray, "n_rows n_columns"],
    label: str,
    columns: Sequence[str],
    rows: Sequence[str],
    limit: float | None = None,
) -> None:
    """Draw a map of values around 0 with its colour bar; see `draw_map`."""
    drawn = draw_map(axes, image, columns, rows, limit)
    beyond = "both" if limit is not None and limit < greatest(image) else "neither"
    axes.get_figure(root=True).colorbar(drawn, ax=axes, label=label, extend=beyond)  # type: ignore[union-attr]


def draw_map(
    axes: Axes,
    image: Float[np.ndarray, "n_rows n_columns"],
    columns: Sequence[str],
    rows: Sequence[str],
    limit: float | None = None,
) -> AxesImage:
    """Draw a map of values around 0, in colours up to `limit`, by default its `greatest` value."""
    limit = greatest(image) if limit is None else limit
    drawn = axes.imshow(image, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=7 if len(rows) < 40 else 5)
    return drawn


def box(axes: Axes, column: float, row: float, height: float = 1) -> None:
    """Draw a frame around a cell of a map, or around several cells from it downwards."""
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, height, fill=False, edgecolor="black", linewidth=1.5))
