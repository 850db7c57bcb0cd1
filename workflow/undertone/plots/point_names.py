"""Names beside the points of a scatter plot, placed so that they cover nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

# Where a name may stand beside its point: offset in points, and horizontal and vertical alignment.
NAME_POSITIONS = [
    ((dx, dy), {1: "left", 0: "center", -1: "right"}[int(np.sign(dx))], {1: "bottom", 0: "center", -1: "top"}[int(np.sign(dy))])
    for far in (4, 8, 14, 20, 28, 38, 50, 64, 80)
    for dx in (far, -far, 0, far / 2, -far / 2)
    for dy in (0, far, -far, far / 2, -far / 2)
    if far in (abs(dx), abs(dy))
]
NAME_SIZE = 7
TIE_DISTANCE = 10  # points: a name further from its point than this is tied to it by a line
# Costs of a place, in points of distance from its point: a name over a mark or a name; a tie across a mark, a name or a tie.
OVER, ACROSS = 1_000, 100
ORDERS, ROUNDS = 20, 10  # random orders in which names choose, and at most how often they choose again


class Named(NamedTuple):
    """A point, the interval of its y, the name written beside it, and its colour."""

    x: float
    y: float
    ends: Sequence[float]
    name: str
    color: str


@dataclass(frozen=True)
class Places:
    """Places where a name may stand.

    `numbers` are indices into `NAME_POSITIONS`. `boxes` (left, bottom, right, top) and `ties`, the ends of the line from the
    name to its point (NaN if it has none), are in pixels. `costs` are those of each place by itself.
    """

    numbers: Int[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]
    ties: Float[np.ndarray, "n 2 2"]
    costs: Real[np.ndarray, " n"]

    def cheapest(self, boxes: Float[np.ndarray, "m 4"], ties: Float[np.ndarray, "m 2 2"]) -> tuple[int, float]:
        """Return the place that costs least beside other names' boxes and ties, and its cost."""
        over = overlap(self.boxes[:, None], boxes).sum(axis=1)
        across = [
            entering(self.ties[:, None], boxes),
            entering(ties, self.boxes[:, None]),
            crossing(self.ties[:, None], ties),
        ]
        costs = self.costs + OVER * over + ACROSS * np.sum(across, axis=(0, 2))
        return int(costs.argmin()), float(costs.min())


def name_points(axes: Axes, points: Sequence[Named]) -> None:
    """Write each point's name beside it, inside the axes, where it covers no point, interval, other name or line at 0.

    Each name takes the place that costs least, and chooses again when the others have theirs. Call it when all else is drawn,
    because places depend on the final layout.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    marks, scale = marks_of(axes, points), figure.dpi / 72
    for point, number in zip(points, best([places_of(axes, point, marks, scale) for point in points]), strict=True):
        offset, ha, va = NAME_POSITIONS[number]
        style: dict[str, Any] = {"fontsize": NAME_SIZE, "color": point.color, "ha": ha, "va": va}
        tie: dict[str, Any] = {"arrowstyle": "-", "color": point.color, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
        far: dict[str, Any] = {"arrowprops": tie} if distance(number) > TIE_DISTANCE else {}
        text = axes.annotate(point.name, (point.x, point.y), offset, textcoords="offset points", **style, **far)
        text.set_in_layout(False)  # places hold only while the layout stays as it is


def distance(number: int) -> float:
    """Return how far a place is from its point, in points."""
    return max(map(abs, NAME_POSITIONS[number][0]))


def best(names: Sequence[Places]) -> list[int]:
    """Return each name's index into `NAME_POSITIONS`, from that order of choosing, of several, which costs least."""
    orders = [list(range(len(names))), *np.random.default_rng(0).permuted(np.tile(range(len(names)), (ORDERS, 1)), axis=1)]
    _, chosen = min((settled(names, [*map(int, order)]) for order in orders), key=lambda end: end[0])
    return [int(places.numbers[k]) for places, k in zip(names, chosen, strict=True)]


def settled(names: Sequence[Places], order: Sequence[int]) -> tuple[float, list[int]]:
    """Return the sum of costs and each name's place; names choose in order given those before, then given all others."""
    chosen: dict[int, int] = {}
    total = 0.0
    for _ in range(ROUNDS):
        before, total = dict(chosen), 0.0
        for k in order:
            others = [j for j in chosen if j != k]
            boxes, ties = (
                np.array([getattr(names[j], part)[chosen[j]] for j in others]).reshape(-1, *shape)
                for part, shape in (("boxes", (4,)), ("ties", (2, 2)))
            )
            chosen[k], cost = names[k].cheapest(boxes, ties)
            total += cost
        if chosen == before:
            break
    return total, [chosen[k] for k in range(len(names))]


def overlap(one: Float[np.ndarray, "... 4"], other: Float[np.ndarray, "... 4"]) -> Bool[np.ndarray, "..."]:
    """Whether boxes overlap."""
    return np.all((one[..., :2] < other[..., 2:]) & (other[..., :2] < one[..., 2:]), axis=-1)


def entering(lines: Float[np.ndarray, "... 2 2"], boxes: Float[np.ndarray, "... 4"]) -> Bool[np.ndarray, "..."]:
    """Whether lines go through boxes: they cross one of the diagonals."""
    diagonals = (boxes[..., [[0, 1], [2, 3]]], boxes[..., [[0, 3], [2, 1]]])
    return crossing(lines, diagonals[0]) | crossing(lines, diagonals[1])


def crossing(one: Float[np.ndarray, "... 2 2"], other: Float[np.ndarray, "... 2 2"]) -> Bool[np.ndarray, "..."]:
    """Whether lines cross: the ends of each lie on both sides of the other."""

    def sides(line: np.ndarray, of: np.ndarray) -> np.ndarray:
        (start, end), (a, b) = (line[..., 0, :], line[..., 1, :]), (of[..., 0, :], of[..., 1, :])
        return turn(start, end, a) * turn(start, end, b)

    return (sides(one, other) < 0) & (sides(other, one) < 0)


def turn(
    a: Float[np.ndarray, "... 2"], b: Float[np.ndarray, "... 2"], c: Float[np.ndarray, "... 2"]
) -> Float[np.ndarray, "..."]:
    """Return a number above 0 if the path from `a` over `b` to `c` turns left, below 0 if it turns right."""
    return (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0])


def marks_of(axes: Axes, points: Sequence[Named]) -> Float[np.ndarray, "n 4"]:
    """Return boxes in pixels: of the points, then of the line at 0, then of the intervals in parts."""
    marks = [(x - 6, y - 6, x + 6, y + 6) for x, y in axes.transData.transform([point[:2] for point in points])]
    (_, zero), (left, right) = axes.transData.transform((0, 0)), axes.bbox.intervalx
    marks.append((left, zero - 1, right, zero + 1))
    for point in points:
        (x, low), (_, high) = axes.transData.transform([(point.x, end) for end in point.ends])
        marks += [(x - 2, y, x + 2, y + 8) for y in np.arange(low, high, 8)]
    return np.array(marks)


def places_of(axes: Axes, point: Named, marks: Float[np.ndarray, "n_marks 4"], scale: float) -> Places:
    """Return a name's places inside the axes, or all places if none is inside. `scale` is in pixels per point."""
    at, size = axes.transData.transform(point[:2]), extent_of(axes, point.name)
    every = [beside(at[0], at[1], size, scale, *each) for each in NAME_POSITIONS]
    numbers = np.array([k for k, box in enumerate(every) if inside(box, axes.bbox)] or range(len(every)))
    boxes = np.array([every[k].extents for k in numbers])
    far = np.array([distance(k) for k in numbers])
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    ties = np.where((far > TIE_DISTANCE)[:, None, None], np.stack([middle, np.broadcast_to(at, middle.shape)], axis=1), np.nan)
    own = (np.abs((marks[:, :2] + marks[:, 2:]) / 2 - at) < 7).all(axis=1)
    across = entering(ties[:, None], marks[~own]).sum(axis=1)
    return Places(numbers, boxes, ties, OVER * overlap(boxes[:, None], marks).sum(axis=1) + ACROSS * across + far)


def extent_of(axes: Axes, name: str) -> tuple[float, float]:
    """Return the width and height of a name in pixels, with a margin of one pixel."""
    text = axes.text(0, 0, name, fontsize=NAME_SIZE)
    box = text.get_window_extent().padded(1)
    text.remove()
    return box.width, box.height


def beside(x: float, y: float, size: tuple[float, float], scale: float, offset: tuple[float, float], ha: str, va: str) -> Bbox:
    """Return the box of a name of some size beside (x, y), in pixels. `offset` is in points, `scale` in pixels per point."""
    (width, height), (dx, dy) = size, offset
    left = x + scale * dx - {"left": 0, "center": width / 2, "right": width}[ha]
    bottom = y + scale * dy - {"bottom": 0, "center": height / 2, "top": height}[va]
    return Bbox.from_bounds(left, bottom, width, height)


def inside(inner: Bbox, outer: Bbox) -> bool:
    """Whether one box lies within another."""
    return outer.x0 <= inner.x0 and outer.y0 <= inner.y0 and inner.x1 <= outer.x1 and inner.y1 <= outer.y1
