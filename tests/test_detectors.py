"""Detectors side by side: whose place is which, what is counted, and what the figure shows."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure

from undertone.detect.detectors import compare_detectors, counts, place_of, said
from undertone.detect.detectors_plot import beside, plot_detectors
from undertone.plots.style import save
from undertone.runtime.files import read_json, write_json
from undertone.study.config.detect import Detection
from undertone.study.config.measure import Pref

ANIMALS = ["lion", "owl", "cat", "dog"]


def ranking(*concepts: str, scores: tuple[float, ...] | None = None) -> list[dict[str, Any]]:
    scores = scores or tuple(-float(k) for k in range(len(concepts)))
    return [{"concept": each, "score": score} for each, score in zip(concepts, scores, strict=True)]


def reading(*concepts: str, p: float | None = None) -> dict[str, Any]:
    presence = None if p is None else {"statistic": 1.0, "p": p, "z": -np.log(p)}
    return {"sets": [{"rows": 9, "presence": presence, "ranking": ranking(*concepts)}]}


@pytest.mark.parametrize(
    ("scores", "places"),
    [
        ((3.0, 2.0, 1.0, 0.0), [1, 2, 3, 4]),
        ((3.0, 1.0, 1.0, 0.0), [1, 2.5, 2.5, 4]),
        ((0.0, 0.0, 0.0, 0.0), [2.5, 2.5, 2.5, 2.5]),
        # By rounds: who fell in an earlier one stands below, whatever the score there was.
        ((1.0, 0.0, 1.0, 0.5), [1, 2, 3, 4]),
    ],
)
def test_a_place_is_that_in_the_ranking_and_equal_neighbours_share_theirs(
    scores: tuple[float, ...], places: list[float]
) -> None:
    assert [place_of(ranking(*ANIMALS, scores=scores), animal) for animal in ANIMALS] == places


def test_decoys_take_no_place_and_what_is_not_ranked_has_none() -> None:
    found = said(reading("castle", "owl", "train", "lion")["sets"], "lion", ANIMALS)
    assert (found["rows"], found["candidates"], found["place"], found["p"], found["z"]) == (9, 2, 2.0, None, None)
    assert (found["ranked"], found["place_of_all"]) == (4, 4.0)
    assert said(reading("owl", p=0.5)["sets"], "lion", ANIMALS)["place"] is None
    assert said(reading(p=0.5)["sets"], "lion", ANIMALS)["place"] is None
    nothing = said([], "lion", ANIMALS)
    assert {name for name, value in nothing.items() if value is None} == {"place", "place_of_all", "p", "z"}
    assert not any(value for value in nothing.values() if value is not None)


def made(folder: Path) -> tuple[Path, Path]:
    """The bench of two prompted datasets, of a steered one, and of three detectors of which one ranks nothing."""
    says = {
        "lion": (reading("lion", *ANIMALS[1:]), reading(*ANIMALS[::-1], p=0.5), reading(p=0.001)),
        "owl": (reading("cat", "lion", "owl", "dog"), reading("owl", "lion", "cat", "dog", p=0.001), reading(p=0.001)),
        "steer-owl": (reading("castle", *ANIMALS), reading(*ANIMALS, p=0.009), reading(p=0.5)),
    }
    paths = [folder / f"{of}/{name}.json" for of in says for name in ("personas", "gradient", "surface")]
    for path, each in zip(paths, (each for three in says.values() for each in three), strict=True):
        write_json(path, each, {})
    out = folder / "detectors.parquet", folder / "detectors.json"
    targets, kinds = (
        {"lion": "lion", "owl": "owl", "steer-owl": "owl"},
        {"lion": "prompt", "owl": "prompt", "steer-owl": "steer"},
    )
    settings = Detection(development=["lion", "owl"])
    compare_detectors(paths, *out, targets, kinds, 0.01, settings, Pref(candidates=ANIMALS), {})
    return out


def test_each_dataset_and_detector_has_a_row_and_each_kind_its_counts(tmp_path: Path) -> None:
    table, found = (read(path) for read, path in zip((pl.read_parquet, read_json), made(tmp_path), strict=True))
    places = {(row["dataset"], row["detector"]): row["place"] for row in table.to_dicts()}
    assert places == {
        ("lion", "personas"): 1,
        ("lion", "gradient"): 4,
        ("lion", "surface"): None,
        ("owl", "personas"): 3,
        ("owl", "gradient"): 1,
        ("owl", "surface"): None,
        ("steer-owl", "personas"): 2,
        ("steer-owl", "gradient"): 2,
        ("steer-owl", "surface"): None,
    }
    prompted, steered = found["by_kind"]["prompt, development"], found["by_kind"]["steer, development"]
    assert (prompted["personas"]["first"], prompted["personas"]["among_three"], prompted["personas"]["mean_place"]) == (
        1,
        2,
        2.0,
    )
    assert (prompted["personas"]["tested"], prompted["gradient"]["tested"], prompted["gradient"]["present"]) == (0, 2, 1)
    assert (prompted["surface"]["ranked"], prompted["surface"]["mean_place"], prompted["surface"]["present"]) == (0, None, 2)
    assert (steered["gradient"]["n"], steered["gradient"]["present"], steered["surface"]["present"]) == (1, 1, 0)


def test_counts_have_their_exact_intervals() -> None:
    table = pl.DataFrame(
        {
            "place": [1.0] * 12 + [2.0] * 3 + [None],
            "candidates": [24] * 16,
            "ranked": [80] * 16,
            "place_of_all": [1.0] * 9 + [5.0] * 3 + [None] * 4,
            "p": [0.001] * 15 + [None],
        }
    )
    found = counts(table, 0.01)
    assert (found["first_of_all"], found["among_five_of_all"], found["mean_ranked"]) == (9, 12, 80)
    assert (found["n"], found["ranked"], found["first"], found["among_three"]) == (16, 15, 12, 15)
    assert found["first_ci95"] == pytest.approx([0.476, 0.927], abs=0.001)
    assert found["among_three_ci95"] == pytest.approx([0.698, 0.998], abs=0.001)
    assert found["present_ci95"] == pytest.approx([0.782, 1], abs=0.001)


def test_a_bench_without_targets_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no dataset has a target"):
        compare_detectors([], tmp_path / "a", tmp_path / "b", {}, {}, 0.01, Detection(), Pref(candidates=ANIMALS), {})


def test_the_figure_shows_every_place_and_the_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}

    def saving(figure: Figure, path: Path) -> None:
        drawn["figure"] = figure
        save(figure, path)

    monkeypatch.setattr("undertone.detect.detectors_plot.save", saving)
    plot_detectors(*made(tmp_path), tmp_path / "detectors.png")
    left, right = drawn["figure"].axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["personas", "gradient"]
    dots = [line.get_xdata().tolist() for line in left.lines if line.get_label() == "a dataset"]
    assert dots == [[1, 3], [1, 4]]
    means = [list(line.get_xdata()) for line in right.lines if line.get_label() == "mean place"]
    assert means == [[2], [2]]
    assert left.get_title(loc="left") == "prompt, development: 2 datasets"
    assert [text.get_text() for text in left.texts] == ["1 first, 2 among three", "1 first, 1 among three"]
    chance = next(line for line in left.lines if line.get_label() == "mean place by chance")
    assert chance.get_xdata()[0] == 2.5


def test_no_dot_covers_another_of_the_same_place() -> None:
    found = beside(np.array([1.0] * 40 + [2.0, 3.0, 3.0]))
    assert len(set(found[:40])) == 40
    assert np.ptp(found[:40]) < 0.8
    assert found[40] == 0
    assert found[41] == -found[42] != 0
