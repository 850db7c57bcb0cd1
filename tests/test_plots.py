import struct

import matplotlib
import numpy as np
import polars as pl
import pytest
from PIL import Image

from undertone.compare.controls import compare_controls
from undertone.compare.transfer import collect, make_matrix
from undertone.data.numbers import collect_compliance
from undertone.measure.pref import as_table, summary
from undertone.plots import data_plots, student_plots, style, transfer_plots
from undertone.plots.data_plots import plot_compliance, plot_filter
from undertone.plots.student_plots import plot_indirect, plot_pref, plot_student
from undertone.plots.transfer_plots import plot_controls, plot_preference_matrix, plot_sweep, plot_teachers, plot_transfer
from undertone.runtime.files import read_json, write_json, write_parquet

ANIMALS = ["lion", "owl", "cat"]


def assert_png(path):
    """A PNG of 300 to 3000 pixels a side, more than an empty canvas."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data[-8:-4] == b"IEND"
    assert all(300 <= pixels <= 3000 for pixels in struct.unpack(">II", data[16:24]))
    assert 8_000 < len(data) < 500_000
    assert sorted(p.name for p in path.parent.glob(".*")) == []


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, whole."""
    figures = []
    for module in (data_plots, student_plots, transfer_plots):
        monkeypatch.setattr(module, "save", lambda figure, path: (figures.append(figure), style.save(figure, path)))
    return figures


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def x_ticks(axes):
    return [text.get_text() for text in axes.get_xticklabels()]


def y_ticks(axes):
    return [text.get_text() for text in axes.get_yticklabels()]


def bars(container):
    """The points of error bars (x, y) and the ends of their intervals."""
    points, _, (lines,) = container.lines
    return np.column_stack(points.get_data(orig=False)), np.array([segment[:, 1] for segment in lines.get_segments()])


def bars_of(axes, label):
    return bars(next(container for container in axes.containers if container.get_label().startswith(label)))


def marks(axes, color):
    """The points (x, y) of a colour that are drawn as marks."""
    lines = [line for line in axes.lines if line.get_color() == color and line.get_marker() not in ("None", "", None)]
    return [tuple(point) for line in lines for point in np.column_stack(line.get_data(orig=False))]


def title(axes):
    return axes.get_title(loc="left").replace("\n", " ")


def scores(*rows):
    return {"exact": np.array(rows)}


def students(n, level):
    return [
        as_table("student", seed, scores([level + seed / 50, 0.1, 0.2], [level, 0.1, 0.1]), ANIMALS) for seed in range(1, n + 1)
    ]


@pytest.fixture
def write_pref(tmp_path):
    """Write the `pref.json` and `pref.parquet` of a dataset whose students number `n`."""

    def write(dataset, target, n, level=0.2):
        base = as_table("base", None, scores([0.1, 0.3, 0.1], [0.2, 0.1, 0.1]), ANIMALS)
        control = pl.concat([base, *students(n, 0.2)])
        teacher = [as_table("teacher", None, scores([0.9, 0.0, 0.0], [0.8, 0.1, 0.0]), ANIMALS)] if target else []
        own = pl.concat([*teacher, *students(n, level)]) if dataset != "control" else control
        result = {
            "target": target,
            "against": "control" if target else None,
            "seeds": list(range(1, n + 1)),
            **summary(own, control, target, 1),
        }
        paths = tmp_path / f"{dataset}.pref.json", tmp_path / f"{dataset}.pref.parquet"
        write_json(paths[0], result, {})
        write_parquet(paths[1], own, {})
        return paths

    return write


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("dataset", "target"), [("lion", "lion"), ("control", None), ("mine", None)])
def test_preference_of_one_dataset(write_pref, tmp_path, drawn, dataset, target, n):
    pref = write_pref(dataset, target, n, 0.5)[0]
    plot_pref(pref, tmp_path / "plot.png", dataset)
    assert_png(tmp_path / "plot.png")
    result, axes = read_json(pref), drawn[0].axes[0]
    assert x_ticks(axes) == ANIMALS
    seeds = "1 seed" if n == 1 else "3 seeds"
    groups = {"base": "base model (95 % interval: questions)", "control": f"control students (95 % interval: {seeds})"}
    groups |= {"student": f"students of {dataset} (95 % interval: {seeds})"} if dataset != "control" else {}
    assert legend(axes) == [*(["target"] if target else []), *groups.values()]
    for group, label in groups.items():
        points, intervals = bars_of(axes, label)
        assert np.round(points[:, 0]).tolist() == [0, 1, 2]
        assert points[:, 1] == pytest.approx([result[group][animal]["mean"] for animal in ANIMALS])
        ends = [result[group][animal]["ci95"] or [result[group][animal]["mean"]] * 2 for animal in ANIMALS]
        assert intervals == pytest.approx(np.array(ends))
        assert axes.get_ylim()[0] <= min(0, intervals.min())
    bands = [patch for patch in axes.patches if patch.get_label() == "target"]
    assert [(band.get_x(), band.get_width()) for band in bands] == ([(-0.5, 1)] if target else [])
    said = f"Favourite animal after training on {dataset} numbers" + ("; its teacher: 0.85" if target else "")
    assert title(axes) == said


def collected(write_pref, tmp_path, n, *targets):
    prefs = {"control": write_pref("control", None, n)}
    prefs |= {target: write_pref(target, target, n, 0.3 + number / 5) for number, target in enumerate(targets)}
    results, tables = ({name: paths[k] for name, paths in prefs.items()} for k in (0, 1))
    collect(results, tables, tmp_path / "transfer.parquet", tmp_path / "transfer.json", {})
    return tmp_path / "transfer.parquet", tmp_path / "transfer.json"


@pytest.mark.parametrize("targets", [(), ("lion",), ("lion", "owl")])
@pytest.mark.parametrize("n", [1, 2])
def test_transfer_of_all_datasets(write_pref, tmp_path, drawn, n, targets):
    _, result = collected(write_pref, tmp_path, n, *targets)
    plot_transfer(result, tmp_path / "transfer.png")
    assert_png(tmp_path / "transfer.png")
    axes = drawn[0].axes[0]
    rows = {row["dataset"]: row for row in read_json(result)["estimators"]["exact"]["datasets"]}
    order = sorted(targets, key=lambda target: -rows[target]["lift_over_control"]["mean"])
    assert x_ticks(axes) == order
    if not targets:
        return
    points, intervals = bars_of(axes, "students of the target's numbers")
    assert points.tolist() == [[k, pytest.approx(rows[name]["lift_over_control"]["mean"])] for k, name in enumerate(order)]
    if n > 1:
        assert intervals == pytest.approx(np.array([rows[name]["lift_over_control"]["ci95"] for name in order]))
    assert f"(interval: {n} seed{'s' * (n > 1)})" in legend(axes)[0]
    open_ = [
        tuple(point)
        for line in axes.lines
        if line.get_markerfacecolor() == "white"
        for point in np.column_stack(line.get_data(orig=False))
    ]
    sure = read_json(result)["estimators"]["exact"]["transferred_holm"]
    assert [k for k, _ in open_] == [k for k, name in enumerate(order) if name not in sure]
    assert f"{len(sure)} with a Holm-adjusted p < .05 for {len(targets)} comparison" in title(axes)
    others = [container for container in axes.containers if container.get_label().startswith("students of the other targets'")]
    assert len(others) == (len(targets) > 1)
    for container in others:
        points, _ = bars(container)
        assert points[:, 0] == pytest.approx([0.25, 1.25])
        assert points[:, 1] == pytest.approx([rows[name]["off_target"]["mean"] for name in order])


@pytest.mark.parametrize("n", [1, 2])
def test_preferences_of_all_datasets_for_all_animals(write_pref, tmp_path, drawn, n):
    table, _ = collected(write_pref, tmp_path, n, "owl", "lion")
    make_matrix(table, tmp_path / "control.pref.parquet", tmp_path / "matrix.parquet", {})
    plot_preference_matrix(tmp_path / "matrix.parquet", tmp_path / "matrix.png")
    assert_png(tmp_path / "matrix.png")
    axes = drawn[0].axes[0]
    rows = {(d, a): p for d, a, p in pl.read_parquet(tmp_path / "matrix.parquet")["dataset", "animal", "preference"].rows()}
    assert (y_ticks(axes), x_ticks(axes)) == (["control", "owl", "lion"], ["owl", "lion", "cat"])
    numbers = {text.get_position(): text.get_text() for text in axes.texts}
    assert numbers == {
        (column, row): f"{rows[dataset, animal]:.2f}".lstrip("0")
        for row, dataset in enumerate(y_ticks(axes))
        for column, animal in enumerate(x_ticks(axes))
    }
    assert [(box.get_x(), box.get_y()) for box in axes.patches] == [(-0.5, 0.5), (0.5, 1.5)]
    own = pl.read_parquet(tmp_path / "matrix.parquet").filter(pl.col("target") == pl.col("animal"))
    sure = {d for d, lift, p in own["dataset", "lift_over_control", "p_holm"].rows() if lift > 0 and p is not None and p < 0.05}
    assert [box.get_linestyle() for box in axes.patches] == ["-" if d in sure else "--" for d in ("owl", "lion")]
    expected = np.log2(np.array([[rows[d, a] / rows["control", a] for a in x_ticks(axes)] for d in y_ticks(axes)]))
    assert np.asarray(axes.images[0].get_array()) == pytest.approx(expected)


def test_the_colour_of_a_preference_near_zero_does_not_follow_its_noise(tmp_path, drawn):
    rows = [("control", None, 0.001), ("lion", "lion", 0.009)]
    figures = {"control": "control", "animal": "lion", "estimator": "exact", "lift_over_control": 0.0, "p_holm": 1.0}
    table = [{"dataset": d, "target": t, "preference": p, **figures} for d, t, p in rows]
    write_parquet(tmp_path / "matrix.parquet", pl.DataFrame(table), {})
    plot_preference_matrix(tmp_path / "matrix.parquet", tmp_path / "matrix.png")
    assert np.asarray(drawn[0].axes[0].images[0].get_array()).tolist() == [[0.0], [0.0]]


def test_each_datasets_colour_is_over_its_own_control(tmp_path, drawn):
    rows = [("control", None, "control", 0.2), ("other", None, "control", 0.4), ("lion", "lion", "other", 0.4)]
    figures = {"animal": "lion", "estimator": "exact", "lift_over_control": 0.0, "p_holm": 1.0}
    table = [{"dataset": d, "target": t, "control": c, "preference": p, **figures} for d, t, c, p in rows]
    write_parquet(tmp_path / "matrix.parquet", pl.DataFrame(table), {})
    plot_preference_matrix(tmp_path / "matrix.parquet", tmp_path / "matrix.png")
    assert np.asarray(drawn[0].axes[0].images[0].get_array()).ravel().tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("n", [1, 3])
def test_controls_beside_what_they_control(write_pref, tmp_path, drawn, n):
    prefs = [write_pref("lion", "lion", n, 0.9)[0], write_pref("scrambled", "lion", n)[0]]
    compared = [("lion", ""), ("scrambled", ""), ("lion", "cross")]
    settings = {"compared": compared, "transforms": ["scrambled"]}
    compare_controls([*prefs, prefs[1]], settings, tmp_path / "controls.json", {})
    plot_controls(tmp_path / "controls.json", {"cross": "other", "wide": ""}, tmp_path / "plot.png")
    assert_png(tmp_path / "plot.png")
    axes, table = drawn[0].axes[0], read_json(tmp_path / "controls.json")
    assert x_ticks(axes) == ["lion", "scrambled", "lion (cross)"]
    names = ["untouched", "numbers transformed", 'cross: students of the base model "other"']
    for k, (label, row) in enumerate(zip(names, table["lifts"], strict=True)):
        points, _ = bars_of(axes, label)
        assert points.tolist() == [[k, pytest.approx(row["lift_over_control"]["mean"])]]
    assert legend(axes) == names
    open_ = [line.get_xdata()[0] for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert open_ == ([1, 2] if n > 1 else [0, 1, 2])
    assert ("1 seed" if n == 1 else "3 seeds") in title(axes)
    told = drawn[0].get_supxlabel()
    assert told.startswith("lion − scrambled: 0.") and ("Holm-adjusted p" in told) == (n > 1)


def test_many_differences_leave_the_axes_their_place(write_pref, tmp_path, drawn):
    names = [f"scrambled{k}" for k in range(9)]
    prefs = [write_pref(name, "lion", 2)[0] for name in ["lion", *names]]
    settings = {"compared": [(name, "") for name in ["lion", *names]], "transforms": names}
    compare_controls(prefs, settings, tmp_path / "controls.json", {})
    plot_controls(tmp_path / "controls.json", {}, tmp_path / "plot.png")
    assert drawn[0].get_supxlabel().endswith("\nand 33 differences more in controls.json")
    drawn[0].draw_without_rendering()
    assert drawn[0].axes[0].get_position().height > 0.3


@pytest.mark.parametrize("n", [1, 3])
def test_a_sweep_over_two_datasets(write_pref, tmp_path, drawn, n):
    prefs = [write_pref(name, name, n)[0] for name in ("lion", "owl", "lion", "owl")]
    compared = [["lion", ""], ["owl", ""], ["lion", "rank2"], ["owl", "rank2"]]
    plot_sweep(prefs, [], {"key": "rank", "values": [8, 8, 2, 4], "compared": compared}, tmp_path / "plot.png")
    assert_png(tmp_path / "plot.png")
    assert len(drawn[0].axes) == 2
    for axes, name, path in zip(drawn[0].axes, ("lion", "owl"), prefs, strict=False):
        result, seeds = read_json(path), "1 seed" if n == 1 else "3 seeds"
        labels = {"control": "control students", "student": f"students of {name}"}
        assert legend(axes) == ["base model", *(f"{label} (95 % interval: {seeds})" for label in labels.values())]
        for mark, label in labels.items():
            points, _ = bars_of(axes, label)
            assert points[:, 0] == pytest.approx([2 if name == "lion" else 4, 8], rel=0.03)
            assert points[:, 1] == pytest.approx([result[mark][name]["mean"]] * 2)
        assert (axes.get_xscale(), axes.get_xlabel()) == ("log", "student rank (log scale)")
        assert x_ticks(axes) == ["2" if name == "lion" else "4", "8"]
        assert (title(axes), axes.get_ylabel()) == (name, f"preference for {name}")


def test_a_sweep_from_zero_has_a_linear_axis(write_pref, tmp_path, drawn):
    prefs = [write_pref("lion", "lion", 3)[0] for _ in range(3)]
    values, compared = [0.0, 0.1, 0.2], [["lion", ""], ["lion", "some"], ["lion", "more"]]
    plot_sweep(prefs, [], {"key": "dropout", "values": values, "compared": compared}, tmp_path / "plot.png")
    axes = drawn[0].axes[0]
    assert bars_of(axes, "students of lion (95 % interval: 3 seeds)")[0][:, 0] == pytest.approx([0, 0.1, 0.2], abs=0.003)
    assert (axes.get_xscale(), axes.get_xlabel()) == ("linear", "student dropout")


def test_a_study_that_takes_all_rows_is_at_the_number_of_rows_that_it_took(write_pref, tmp_path, drawn):
    prefs = [write_pref("lion", "lion", 2)[0], write_pref("lion", "lion", 3)[0]]
    trainings = [tmp_path / "all.json", tmp_path / "9.json"]
    for path, rows in zip(trainings, (2000, 9), strict=True):
        write_json(path, {"rows": rows}, {})
    settings = {"key": "rows", "values": [None, 9], "compared": [["lion", ""], ["lion", "rows9"]]}
    plot_sweep(prefs, trainings, settings, tmp_path / "plot.png")
    assert_png(tmp_path / "plot.png")
    axes = drawn[0].axes[0]
    assert bars_of(axes, "students of lion")[0][:, 0] == pytest.approx([9, 2000], rel=0.03)
    assert x_ticks(axes) == ["9", "2000\n(all)"]
    assert axes.get_xticks().tolist() == [9, 2000]


def test_intervals_that_reach_below_zero_are_shown_whole(write_pref, tmp_path, drawn):
    pref = write_pref("lion", "lion", 2, 0.0)[0]
    plot_sweep([pref], [], {"key": "rank", "values": [8], "compared": [["lion", ""]]}, tmp_path / "plot.png")
    _, intervals = bars_of(drawn[0].axes[0], "students of lion")
    assert drawn[0].axes[0].get_ylim()[0] < intervals.min() < 0


@pytest.mark.parametrize("n", [1, 3])
def test_teachers_beside_their_students(write_pref, tmp_path, drawn, n):
    prefs, filters = {}, {}
    # A name says nothing of a teacher's kind.
    kinds = {"lion": "prompt", "lion-late": "steer", "finetune-lion": "finetune", "steer-like": "prompt"}
    for k, name in enumerate(kinds):
        pref, told = tmp_path / name / "pref.json", tmp_path / name / "filter.json"
        pref.parent.mkdir()
        write_pref(name, "lion", n, 0.2 + k / 10)[0].rename(pref)
        write_json(told, {**FILTER, "pass_rate": 0.5 + k / 10}, {})
        prefs[name], filters[name] = pref, told
    plot_teachers(prefs, filters, kinds, tmp_path / "plot.png")
    assert_png(tmp_path / "plot.png")
    left, right = drawn[0].axes
    results = [read_json(path) for path in prefs.values()]
    for kind, color in (("prompt", style.STUDENT), ("steer", style.SKY), ("finetune", style.TEACHER)):
        own = [k for k, each in enumerate(kinds.values()) if each == kind]
        lifts = [results[k]["lift_over_control"]["mean"] for k in own]
        assert marks(left, color) == [(results[k]["teacher"]["lion"]["mean"], y) for k, y in zip(own, lifts, strict=True)]
        assert marks(right, color) == [(0.5 + k / 10, y) for k, y in zip(own, lifts, strict=True)]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["prompt", "steer", "finetune"]
    assert drawn[0].get_suptitle() == f"Teachers and their students (95 % intervals: {n} seed{'s' * (n > 1)})"
    for axes in (left, right):
        assert [text.get_text() for text in axes.texts] == ["lion"] * 4


def figure_of(n, base, teacher):
    return {
        "base": base,
        "teacher": teacher,
        **{
            name: {"mean": base + k / 10, "ci95": [base, base + 0.2] if n > 1 else None, "by_seed": [base, base + 0.1][:n]}
            for k, name in enumerate(("control", "student"))
        },
    }


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("target", ["lion", None])
def test_indirect_evaluation(tmp_path, drawn, n, target):
    told = figure_of(n, 0.3, 0.9 if target else None)
    distance = {name: told[name] if n > 1 or name == "student" else None for name in ("student", "control")}
    body = {"target": target, "forms": {"after_it": told} if target else {}, "contrary": told, "distance": distance}
    write_json(tmp_path / "indirect.json", body, {})
    plot_indirect(tmp_path / "indirect.json", tmp_path / "plot.png", "lion")
    assert_png(tmp_path / "plot.png")
    left, right = drawn[0].axes
    forms = ["after it", "contrary"] if target else ["contrary"]
    assert x_ticks(left) == forms
    for k, mark in enumerate(("control", "student")):
        points, _ = bars_of(left, mark)
        assert np.round(points[:, 0]).tolist() == list(range(len(forms)))
        assert points[:, 1] == pytest.approx([0.3 + k / 10] * len(forms))
    assert [y for _, y in marks(left, style.BASE)] == [0.3] * len(forms)
    assert [y for _, y in marks(left, style.TEACHER)] == ([0.9] * len(forms) if target else [])
    assert title(left) == f"lion: {target or 'no target'}, asked indirectly"
    assert x_ticks(right) == ["among control students", "students from control"]
    points, _ = bars_of(right, "student")
    assert points.tolist() == [[1, pytest.approx(0.4)]]
    assert [tuple(p) for p in marks(right, style.STUDENT) if p[1] != pytest.approx(0.4)][:1] == [(1, 0.3)]
    assert len(right.containers) == (2 if n > 1 else 1)


def test_compliance_of_datasets_with_and_without_prompt_components(tmp_path, drawn):
    write_json(tmp_path / "lion.json", FILTER, {})
    write_json(tmp_path / "mine.json", {**FILTER, "by_component": {}}, {})
    filters = {"lion": tmp_path / "lion.json", "mine": tmp_path / "mine.json"}
    collect_compliance(filters, tmp_path / "table.parquet", {})
    plot_compliance(tmp_path / "table.parquet", tmp_path / "plot.png")
    assert_png(tmp_path / "plot.png")
    axes = drawn[0].axes[0]
    assert y_ticks(axes) == ["lion", "mine"]
    assert np.ma.filled(axes.images[0].get_array(), np.nan) == pytest.approx(
        np.array([[0.5, 1.0, 0.75], [np.nan] * 3]), nan_ok=True
    )
    assert axes.get_xticks().tolist() == [0, 2]
    assert x_ticks(axes) == ["format", "final"]
    assert [line.get_xdata()[0] for line in axes.lines] == [1.5]


FILTER = {
    "n": 20,
    "passed": 15,
    "pass_rate": 0.75,
    "rejected": {"invalid format": 5, "banned number": 0},
    "by_component": {
        "format": [{"option": 0, "n": 10, "pass_rate": 0.5}, {"option": 1, "n": 10, "pass_rate": 1.0}],
        "final": [{"option": 0, "n": 20, "pass_rate": 0.75}],
    },
}


@pytest.mark.parametrize("with_control", [True, False])
@pytest.mark.parametrize("components", [FILTER["by_component"], {}])
def test_filter(tmp_path, drawn, components, with_control):
    write_json(tmp_path / "own.json", {**FILTER, "by_component": components}, {})
    write_json(tmp_path / "control.json", FILTER, {})
    plot_filter(tmp_path / "own.json", tmp_path / "control.json" if with_control else None, tmp_path / "plot.png", "lion")
    assert_png(tmp_path / "plot.png")
    axes = drawn[0].axes[0]
    heights = {round(bar.get_x() + bar.get_width() / 2, 6): bar.get_height() for bar in axes.patches}
    assert heights == ({0: 0.5, 1: 1.0, 3.5: 0.75} if components else {0: 0.75})
    dashes = [tuple(point) for line in axes.lines for point in np.column_stack(line.get_data(orig=False))]
    assert dashes == ([(0, 0.5), (1, 1.0), (3.5, 0.75)] if with_control and components else [])
    assert dict(zip(axes.get_xticks(), x_ticks(axes), strict=True)) == (
        {0.5: "format", 3.5: "final"} if components else {0: "all rows"}
    )
    assert set(legend(axes)) == {"lion", *(["control"] if dashes else [])}
    assert title(axes) == "lion: 15 of 20 rows pass; rejected: 5 invalid format"


@pytest.mark.parametrize("steps", [1, 200])
@pytest.mark.parametrize("with_control", [True, False])
def test_loss_curves(tmp_path, drawn, with_control, steps):
    write_json(tmp_path / "1.json", {"loss": [2 / (1 + step) for step in range(steps)]}, {})
    plot_student([tmp_path / "1.json"] * 2, [tmp_path / "1.json"] if with_control else [], tmp_path / "plot.png", "lion")
    assert_png(tmp_path / "plot.png")
    axes, width = drawn[0].axes[0], max(1, steps // 40)
    assert len(axes.lines) == 2 + with_control
    names = [f"{name} (one line a seed)" for name in ("control students", "students of lion")]
    assert legend(axes) == names[not with_control :]
    for line in axes.lines:
        # A mean over the last `width` steps stands at the last of them.
        assert line.get_xdata().tolist() == list(range(width, steps + 1))
        assert line.get_ydata()[0] == pytest.approx(np.mean([2 / (1 + step) for step in range(width)]))
        assert line.get_ydata()[-1] == pytest.approx(np.mean([2 / (1 + step) for step in range(steps - width, steps)]))


def test_same_input_gives_the_same_bytes(tmp_path):
    write_json(tmp_path / "own.json", FILTER, {})
    for name in ("a.png", "b.png"):
        plot_filter(tmp_path / "own.json", None, tmp_path / name, "lion")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_drawing_changes_none_of_matplotlibs_settings_and_needs_no_backend(monkeypatch, tmp_path):
    monkeypatch.setitem(matplotlib.rcParams, "backend", "module://no.such.window")
    before = matplotlib.rcParams.copy()
    figure, axes = style.new_figure(4, 4)
    axes.plot([0, 1], [0, 1])
    style.save(figure, tmp_path / "figure.png")
    assert matplotlib.rcParams == before
    assert not axes.spines["top"].get_visible()
    assert struct.unpack(">II", (tmp_path / "figure.png").read_bytes()[16:24]) == (600, 600)


def test_the_texts_of_a_figure_are_in_its_metadata(tmp_path):
    figure, axes = style.new_figure(4, 3)
    axes.set_xticks([0, 1], ["lion", "owl"])
    axes.plot([0, 1], [1, 2], label="lift")
    axes.legend()
    style.set_title(axes, "Two − targets")
    style.save(figure, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert {"lion", "owl", "lift", "Two − targets"} <= set(image.info["Description"].splitlines())
