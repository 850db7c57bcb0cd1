"""Placement of legends so that they cover nothing that a panel shows."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.transforms import Bbox

CORNERS = (
    "upper right",
    "upper left",
    "lower right",
    "lower left",
    "center right",
    "upper center",
    "lower center",
    "center left",
)
GAP = 10  # pixels between what is drawn and a legend


def clear_legends(figure: Figure) -> None:
    """Move the legend of each panel to a place where it covers no point, interval, bar or text.

    If there is none, the y axis is extended at the top of the panel (at the bottom if the axis is inverted) until the legend
    has room there. Legends outside their panel stay. Matplotlib's own "best" place overlooks intervals and texts.
    """
    panels = [axes for axes in figure.axes if (legend := axes.get_legend()) and _stands_inside(axes, legend)]
    if not panels:
        return
    figure.draw_without_rendering()
    for axes in panels:
        _clear(axes, axes.get_legend())  # type: ignore[arg-type]


def covered(axes: Axes, legend: Legend, bands: bool = False) -> int:
    """Count the points of a panel's content that a legend covers.

    Lines and bands across the whole panel count only with `bands`.
    """
    shown = np.concatenate([np.empty((0, 2)), *_shown(axes, bands)])
    box = legend.get_window_extent().padded(GAP)
    inside = (shown > (box.x0, box.y0)) & (shown < (box.x1, box.y1))
    return int(inside.all(axis=1).sum())


def _stands_inside(axes: Axes, legend: Legend) -> bool:
    return bool(np.allclose(legend.get_bbox_to_anchor().bounds, axes.bbox.bounds))


def _clear(axes: Axes, legend: Legend) -> None:
    """Move a legend to a free corner, else to one free but for lines and bands across the panel, else extend the y axis."""
    for bands in (True, False):
        for corner in CORNERS:
            legend.set_loc(corner)
            if not covered(axes, legend, bands):
                return
    below = axes.yaxis_inverted()
    legend.set_loc("lower right" if below else "upper right")
    share = (legend.get_window_extent().height + 3 * GAP) / axes.bbox.height
    start, end = axes.get_ylim()
    if axes.get_yscale() == "linear" and share < 0.8:
        # `start` is at the bottom. The axis grows there or at the top, until its present range fills the share that is left.
        length = (end - start) / (1 - share)
        axes.set_ylim((end - length, end) if below else (start, start + length))


def _shown(axes: Axes, bands: bool) -> Iterator[np.ndarray]:
    """Yield points in pixels that lie densely along everything drawn at data: lines, intervals, markers, bars, texts."""
    for line in axes.lines:
        if bands or _at_data(axes, line):
            points = line.get_transform().transform(np.column_stack(line.get_data(orig=False)))
            yield points if line.get_linestyle() == "None" else _along(points)
    for collection in axes.collections:
        if isinstance(collection, LineCollection):
            yield from (_along(axes.transData.transform(segment)) for segment in collection.get_segments())
    for patch in axes.patches:
        if bands or _at_data(axes, patch):
            yield _filled(patch.get_window_extent())
    for text in axes.texts:
        yield _filled(text.get_window_extent())


def _at_data(axes: Axes, artist: Artist) -> bool:
    """Whether both coordinates are data coordinates, unlike those of a line or a band across the whole panel."""
    return all(artist.get_transform().contains_branch_seperately(axes.transData))


def _filled(box: Bbox) -> np.ndarray:
    """Return points all over a box, so close that no legend fits between them."""
    x, y = (np.linspace(low, high, int((high - low) / 8) + 2) for low, high in (box.intervalx, box.intervaly))
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def _along(points: np.ndarray) -> np.ndarray:
    """Return the points `[n, 2]` of a path, with others added so that neighbours are only a few pixels apart."""
    known = points[np.isfinite(points).all(axis=1)]
    parts = [known]
    for a, b in pairwise(known):
        n = int(np.hypot(*(b - a)) / 3)
        parts.append(a + (b - a) * np.linspace(0, 1, n + 2)[1:-1, None])
    return np.concatenate(parts)
