import struct

import numpy as np
import polars as pl
import pytest

from undertone.files import write_json, write_parquet
from undertone.plots import plot_filter, plot_pref, plot_preference, plot_student, plot_transfer, plot_transform
from undertone.pref import as_table, summary
from undertone.transfer import collect

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
def test_transfer_and_preference_of_all_datasets(write_pref, tmp_path, n, targets):
    table, result = collected(write_pref, tmp_path, n, *targets)
    plot_transfer(result, tmp_path / "transfer.png")
    plot_preference(table, tmp_path / "preference.png")
    assert_png(tmp_path / "transfer.png")
    assert_png(tmp_path / "preference.png")


def test_transforms_beside_what_they_are_made_from(write_pref, tmp_path):
    _, result = collected(write_pref, tmp_path, 2, "lion", "owl")
    plot_transform(result, tmp_path / "plot.png", {"lion": ["owl", "unknown"]})
    assert_png(tmp_path / "plot.png")
    with pytest.raises(ValueError, match="no dataset with a target has a transform"):
        plot_transform(result, tmp_path / "none.png", {"mine": ["owl"]})
    assert not (tmp_path / "none.png").exists()


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
