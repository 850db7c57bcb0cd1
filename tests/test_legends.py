"""Legends that move away from what a panel shows."""

import pytest
from matplotlib.figure import Figure

from undertone.plots.legends import clear_legends, covered
from undertone.plots.style import new_figure


def panel(points: list[tuple[float, float, float]], **axis: object) -> Figure:
    """A panel with points (x, y, half of an interval) and a legend, its axes as given."""
    figure, axes = new_figure(5, 4)
    x, y, half = zip(*points, strict=True)
    axes.errorbar(x, y, half, fmt="o", label="students")
    axes.set(xlim=(0, 10), ylim=(0, 10), **axis)
    axes.legend(loc="upper right")
    figure.draw_without_rendering()
    return figure


def test_a_legend_leaves_an_interval() -> None:
    figure = panel([(8, 5, 4.9), (2, 2, 0.1)])
    axes = figure.axes[0]
    assert covered(axes, axes.get_legend()) > 0
    clear_legends(figure)
    assert covered(axes, axes.get_legend()) == 0
    assert axes.get_ylim() == (0, 10)  # there was room


CROWD = [(x / 2, 5.0, 4.9) for x in range(1, 20)]


def test_without_a_free_place_the_axis_grows_at_its_upper_end() -> None:
    figure = panel(CROWD)
    axes = figure.axes[0]
    clear_legends(figure)
    assert covered(axes, axes.get_legend()) == 0
    low, high = axes.get_ylim()
    assert low == 0
    assert 10 < high < 13


def test_where_rows_are_counted_downwards_it_grows_at_its_lower_end() -> None:
    figure = panel(CROWD)
    axes = figure.axes[0]
    axes.set_ylim(10, 0)
    clear_legends(figure)
    assert covered(axes, axes.get_legend()) == 0
    low, high = axes.get_ylim()
    assert high == 0
    assert 10 < low < 13


@pytest.mark.parametrize("kind", ["bar", "text"])
def test_bars_and_texts_are_left_too(kind: str) -> None:
    figure = panel([(1, 1, 0.1)])
    axes = figure.axes[0]
    if kind == "bar":
        axes.barh(5, 10, height=9.9)
    else:
        axes.text(9, 9.4, "p .04")
    assert covered(axes, axes.get_legend()) > 0
    clear_legends(figure)
    assert covered(axes, axes.get_legend()) == 0


def test_a_band_is_left_where_there_is_room_and_else_covered() -> None:
    figure = panel([(1, 1, 0.1)])
    axes = figure.axes[0]
    band = axes.axvspan(9, 9.5)
    clear_legends(figure)
    assert covered(axes, axes.get_legend(), bands=True) == 0
    band.set_x(0), band.set_width(10)
    clear_legends(figure)
    assert covered(axes, axes.get_legend()) == 0 < covered(axes, axes.get_legend(), bands=True)
    assert axes.get_ylim() == (0, 10)


def test_a_legend_outside_its_panel_stays() -> None:
    figure = panel(CROWD)
    axes = figure.axes[0]
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2))
    figure.draw_without_rendering()
    before = axes.get_legend().get_window_extent().bounds
    clear_legends(figure)
    assert axes.get_legend().get_window_extent().bounds == before
    assert axes.get_ylim() == (0, 10)
