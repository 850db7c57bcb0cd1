"""Names beside the points of a figure, where they cover nothing."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

# Where a name may stand beside its point: offset in points, and which of its corners lies there.
NAME_POSITIONS = [
    ((dx, dy), ha, va)
    for far in (4, 8, 14, 20, 28, 38)
    for dx, ha in ((far, "left"), (-far, "right"), (0, "center"))
    for dy, va in ((0, "center"), (far, "bottom"), (-far, "top"))
    if dx or dy
]
NAME_SIZE = 7
TIE_DISTANCE = 10  # points: a name further from its point than this is tied to it by a line


class Named(NamedTuple):
    """A point, the interval of its y, and what is written beside it in which colour."""

    x: float
    y: float
    ends: Sequence[float]
    name: str
    color: str


def name_points(axes: Axes, points: Sequence[Named]) -> None:
    """Write each point's name beside it, where it covers no point, interval, other name or line at 0, inside the axes.

    Of `NAME_POSITIONS` it takes the first that is free, or where none is the one with the least in the way. Call it when all
    else is drawn, as positions are those of the final layout.
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
        boxes = [beside(x, y, size, figure.dpi / 72, *position) for position in NAME_POSITIONS]
        free = [(not inside(box, axes.bbox), box.count_overlaps(taken), k) for k, box in enumerate(boxes)]
        *_, chosen = min(free)
        offset, ha, va = NAME_POSITIONS[chosen]
        style: dict[str, Any] = {"fontsize": NAME_SIZE, "color": point.color, "ha": ha, "va": va}
        tie: dict[str, Any] = {"arrowstyle": "-", "color": point.color, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
        far: dict[str, Any] = {"arrowprops": tie} if max(map(abs, offset)) > TIE_DISTANCE else {}
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
