"""Names beside points cover nothing, and are tied to a point that is far."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from undertone.plots import point_names, style

TEACHERS = Path(__file__).parents[1] / "docs/results/data/teachers.json"


def check_clear(axes: Axes, points: list[point_names.Named]) -> None:
    """Whether no name of a panel covers anything, nor leaves it."""
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the lines that tie them
    assert [text.get_text() for text in axes.texts] == [point.name for point in points]
    assert all(point_names.inside(box, axes.bbox) for box in boxes)
    assert all(not box.count_overlaps(boxes[:k]) for k, box in enumerate(boxes))
    shown = axes.transData.transform([(point.x, y) for point in points for y in np.linspace(*point.ends, 20)])
    assert not any(box.contains(*place) for box in boxes for place in shown)


def test_names_cover_no_point_interval_or_other_name_and_stay_inside() -> None:
    figure, (axes, _) = style.new_grid(2)
    axes.set_xlim(0, 1)
    places = [(0.98 + k / 1000, k / 100, f"elephant{k}") for k in range(4)] + [(0.5, 0.01, "cat"), (0.505, 0.012, "owl")]
    points = [point_names.Named(x, y, (y - 0.004, y + 0.004), name, "red") for x, y, name in places]
    axes.plot([point.x for point in points], [point.y for point in points], "o", markersize=5)
    point_names.name_points(axes, points)
    figure.draw_without_rendering()
    check_clear(axes, points)


@pytest.mark.parametrize("x", ["teacher", "pass_rate"])
def test_the_names_of_the_published_teachers_are_all_clear(x: str) -> None:
    rows = json.loads(TEACHERS.read_text())["rows"]
    figure, (axes, _) = style.new_grid(2, 6.0, 5.0)
    axes.set_xlim(0, 1.02)
    points = [
        point_names.Named(row[x], row["lift_over_control"]["mean"], row["lift_over_control"]["ci95"], row["target"], "red")
        for row in rows
    ]
    for point in points:
        axes.plot([point.x] * 2, point.ends)
    point_names.name_points(axes, points)
    figure.draw_without_rendering()
    check_clear(axes, points)


@pytest.mark.parametrize(("end", "through"), [((10, 10), True), ((10, 4), True), ((3, 10), False), ((1, 1), False)])
def test_a_line_goes_through_a_box_or_past_it(end: tuple[float, float], through: bool) -> None:
    line, box = np.array([[(0.0, 0.0), end]]), np.array([[4.0, 1.0, 6.0, 7.0]])
    assert bool(point_names.entering(line, box)) == bool(point_names.entering(line[:, ::-1], box)) == through


def test_a_name_far_from_its_point_is_tied_to_it_in_its_colour() -> None:
    _, (axes, _) = style.new_grid(2)
    axes.set(xlim=(0, 1), ylim=(-1, 1))
    crowd = [
        point_names.Named(0.5 + dx, dy, (dy - 0.05, dy + 0.05), "lion", "red") for dx in (-0.05, 0, 0.05) for dy in (0.1, 0.2)
    ]
    point_names.name_points(axes, [*crowd, point_names.Named(0.1, 0.5, (0.5, 0.5), "alone", "blue")])
    far = {max(map(abs, text.xyann)) > point_names.TIE_DISTANCE: text.arrow_patch is not None for text in axes.texts}
    assert far == {True: True, False: False}
    assert [text.get_color() for text in axes.texts] == ["red"] * 6 + ["blue"]
