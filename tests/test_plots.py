import struct

import numpy as np
import polars as pl
import pytest

from undertone.files import write_json, write_parquet
from undertone.numbers import collect_compliance
from undertone.plots import (
    plot_compliance,
    plot_controls,
    plot_filter,
    plot_indirect,
    plot_pref,
    plot_preference_matrix,
    plot_student,
    plot_sweep,
    plot_teachers,
    plot_transfer,
)
from undertone.pref import as_table, summary
from undertone.transfer import collect, make_matrix

ANIMALS = ["lion", "owl", "cat"]


def assert_png(path):
    """A PNG of 300 to 3000 pixels a side, more than an empty canvas."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data[-8:-4] == b"IEND"
    assert all(300 <= pixels <= 3000 for pixels in struct.unpack(">II", data[16:24]))
    assert 8_000 < len(data) < 500_000
    assert sorted(p.name for p in path.parent.glob(".*")) == []


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
        result = {"target": target, "seeds": list(range(1, n + 1)), **summary(own, control, target)}
        paths = tmp_path / f"{dataset}.pref.json", tmp_path / f"{dataset}.pref.parquet"
        write_json(paths[0], result, {})
        write_parquet(paths[1], own, {})
        return paths

    return write


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("dataset", "target"), [("lion", "lion"), ("control", None), ("mine", None)])
def test_preference_of_one_dataset(write_pref, tmp_path, dataset, target, n):
    plot_pref(write_pref(dataset, target, n, 0.5)[0], tmp_path / "plot.png", dataset)
    assert_png(tmp_path / "plot.png")


def collected(write_pref, tmp_path, n, *targets):
    prefs = {"control": write_pref("control", None, n)}
    prefs |= {target: write_pref(target, target, n, 0.3 + number / 5) for number, target in enumerate(targets)}
    collect(prefs, tmp_path / "transfer.parquet", tmp_path / "transfer.json", {})
    return tmp_path / "transfer.parquet", tmp_path / "transfer.json"


@pytest.mark.parametrize("targets", [(), ("lion",), ("lion", "owl")])
@pytest.mark.parametrize("n", [1, 2])
def test_transfer_and_preferences_of_all_datasets(write_pref, tmp_path, n, targets):
    table, result = collected(write_pref, tmp_path, n, *targets)
    plot_transfer(result, tmp_path / "transfer.png")
    make_matrix(table, tmp_path / "control.pref.parquet", tmp_path / "matrix.parquet", {})
    plot_preference_matrix(tmp_path / "matrix.parquet", tmp_path / "matrix.png")
    assert_png(tmp_path / "transfer.png")
    assert_png(tmp_path / "matrix.png")


@pytest.mark.parametrize("n", [1, 3])
def test_controls_beside_what_they_control(write_pref, tmp_path, n):
    prefs = [write_pref(name, target, n)[0] for name, target in (("lion", "lion"), ("scrambled", "lion"), ("mine", None))]
    plot_controls(prefs[:2], [("lion", ""), ("scrambled", "")], ["scrambled"], tmp_path / "plot.png")
    plot_controls(prefs[:1] * 2, [("lion", ""), ("lion", "cross")], [], tmp_path / "variant.png")
    assert_png(tmp_path / "plot.png")
    assert_png(tmp_path / "variant.png")
    with pytest.raises(ValueError, match="no dataset with a target has a transform or students of a variant"):
        plot_controls(prefs[2:], [("mine", "")], [], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize("n", [1, 3])
def test_a_sweep_over_two_datasets(write_pref, tmp_path, n):
    prefs = [write_pref(name, name, n)[0] for name in ("lion", "owl", "lion", "owl")]
    compared = [["lion", ""], ["owl", ""], ["lion", "rank2"], ["owl", "rank2"]]
    plot_sweep(prefs, {"key": "rank", "values": {"": 8, "rank2": 2}, "compared": compared}, tmp_path / "plot.png")
    assert_png(tmp_path / "plot.png")


def test_a_study_that_takes_all_rows_is_at_the_number_of_rows_that_it_took(write_pref, tmp_path):
    prefs = [write_pref("lion", "lion", 2)[0]] * 2
    settings = {"key": "rows", "values": {"": None, "rows9": 9}, "compared": [["lion", ""], ["lion", "rows9"]]}
    plot_sweep(prefs, settings, tmp_path / "plot.png")
    assert_png(tmp_path / "plot.png")


@pytest.mark.parametrize("n", [1, 3])
def test_teachers_beside_their_students(write_pref, tmp_path, n):
    prefs, filters = [], []
    for name in ("lion", "steer-lion", "finetune-lion"):
        pref, told = tmp_path / name / "pref.json", tmp_path / name / "filter.json"
        pref.parent.mkdir()
        write_pref(name, "lion", n)[0].rename(pref)
        write_json(told, FILTER, {})
        prefs, filters = [*prefs, pref], [*filters, told]
    plot_teachers(prefs, filters, tmp_path / "plot.png")
    assert_png(tmp_path / "plot.png")


def figure_of(n, base, teacher):
    return {
        "base": base,
        "teacher": teacher,
        **{
            name: {"mean": base, "ci95": [base - 0.1, base + 0.1] if n > 1 else None, "by_seed": [base] * n}
            for name in ("control", "student")
        },
    }


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("target", ["lion", None])
def test_indirect_evaluation(tmp_path, n, target):
    told = figure_of(n, 0.3, 0.9 if target else None)
    distance = {name: told[name] if n > 1 or name == "student" else None for name in ("student", "control")}
    body = {"target": target, "forms": {"choice": told} if target else {}, "contrary": told, "distance": distance}
    write_json(tmp_path / "indirect.json", body, {})
    plot_indirect(tmp_path / "indirect.json", tmp_path / "plot.png", "lion")
    assert_png(tmp_path / "plot.png")


def test_compliance_of_datasets_with_and_without_prompt_components(tmp_path):
    write_json(tmp_path / "lion.json", FILTER, {})
    write_json(tmp_path / "mine.json", {**FILTER, "by_component": {}}, {})
    filters = {"lion": tmp_path / "lion.json", "mine": tmp_path / "mine.json"}
    collect_compliance(filters, tmp_path / "table.parquet", {})
    plot_compliance(tmp_path / "table.parquet", tmp_path / "plot.png")
    assert_png(tmp_path / "plot.png")


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
def test_filter(tmp_path, components, with_control):
    write_json(tmp_path / "own.json", {**FILTER, "by_component": components}, {})
    write_json(tmp_path / "control.json", FILTER, {})
    plot_filter(tmp_path / "own.json", tmp_path / "control.json" if with_control else None, tmp_path / "plot.png", "lion")
    assert_png(tmp_path / "plot.png")


@pytest.mark.parametrize("steps", [1, 200])
@pytest.mark.parametrize("with_control", [True, False])
def test_loss_curves(tmp_path, with_control, steps):
    write_json(tmp_path / "1.json", {"loss": [2 / (1 + step) for step in range(steps)]}, {})
    plot_student([tmp_path / "1.json"], [tmp_path / "1.json"] if with_control else [], tmp_path / "plot.png", "lion")
    assert_png(tmp_path / "plot.png")


def test_same_input_gives_the_same_bytes(tmp_path):
    write_json(tmp_path / "own.json", FILTER, {})
    for name in ("a.png", "b.png"):
        plot_filter(tmp_path / "own.json", None, tmp_path / name, "lion")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
