"""Selections: what is left of a lift, how much of what cleaning could do was done, and what scores tell apart."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from example import study
from scipy.stats import mannwhitneyu

from undertone.compare.selections import compare_selections, separation
from undertone.plots.selections_plot import draw, name_of
from undertone.plots.style import new_figure
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json, write_json, write_parquet
from undertone.stats.ranks import auroc
from undertone.stats.stats import contrast, difference_interval, ratio
from undertone.study.dataset_settings import selections
from undertone.study.node import Node

CONTROL = [0.02, 0.03, 0.025]
LIONS = {
    "fewer": [0.18, 0.20, 0.19],
    "clean": [0.03, 0.05, 0.04],
    "cleaned": [0.06, 0.07, 0.08],
    "kept": [0.25, 0.28, 0.26],
}
DATASETS = {
    "mixed": {"from": "control", "transform": "mix", "other": "lion", "fraction": 0.5, "target": "lion"},
    "fewer": {"from": "mixed", "transform": "subset", "rows": 2},
    "clean": {"from": "mixed", "transform": "without", "other": "lion"},
    "cleaned": {"from": "mixed", "transform": "select", "score": "gradient", "keep": "bottom", "fraction": 0.5},
    "kept": {"from": "mixed", "transform": "select", "score": "gradient", "keep": "top", "fraction": 0.5},
}
ROWS = pl.DataFrame({"row": [0, 0, 1, 2], "prompt": list("aabc"), "completion": ["1", "2", "3", "4"]})


def settings(**changed: Any) -> dict[str, Any]:
    """What the stage is given where the study has these datasets."""
    return selections(study(datasets={**DATASETS, **changed}), Node("selections"))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return compare(tmp_path_factory.mktemp("selections"), settings())


def compare(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    for name, values in LIONS.items():
        preferences = {"student": {"lion": {"by_seed": values}}, "control": {"lion": {"by_seed": CONTROL}}}
        write_json(folder / name / "pref.json", {"target": "lion", "estimator": "exact", **preferences}, {})
    scores = {name: pl.Series([3.0, 1.0, 2.0, 4.0]) for name in ("difficulty", "personas", "short_training")}
    write_parquet(folder / "mixed/row_scores.parquet", ROWS.with_columns(**scores, gradient=pl.Series([9.0, 0, 0, 8.0])), {})
    write_parquet(folder / "lion/numbers.parquet", ROWS[[0, 3]].with_columns(row=pl.lit(5)), {})
    files = [folder / name / "pref.json" for name in LIONS]
    compare_selections(
        files, [folder / "mixed/row_scores.parquet"], [folder / "lion/numbers.parquet"], given, folder / "selections.json", {}
    )
    return read_json(folder / "selections.json")["datasets"]["mixed"]


def arms(compared: dict[str, Any]) -> dict[str, Any]:
    return {arm["dataset"]: arm for arm in compared["arms"]}


def test_every_arm_has_its_lift_and_selections_are_compared_with_random_rows(compared: dict[str, Any]) -> None:
    assert [*arms(compared)] == ["fewer", "clean", "cleaned", "kept"]
    for name, arm in arms(compared).items():
        expected = difference_interval(LIONS[name], CONTROL)
        assert arm["lift_over_control"]["mean"] == pytest.approx(expected.mean)
        assert arm["lift_over_control"]["ci95"] == pytest.approx(expected.ci95)
        assert arm["lift_over_control"]["p_holm"] >= arm["lift_over_control"]["p"]
    assert {name for name, arm in arms(compared).items() if arm["over_random"]} == {"cleaned", "kept"}
    assert arms(compared)["kept"]["over_random"]["mean"] == pytest.approx(np.mean(LIONS["kept"]) - np.mean(LIONS["fewer"]))


def test_the_share_of_what_can_be_cleaned_is_that_of_cleaning_with_knowledge(compared: dict[str, Any]) -> None:
    share = arms(compared)["cleaned"]["share_of_known"]
    assert share["mean"] == pytest.approx((0.19 - 0.07) / (0.19 - 0.04))
    assert share["ci95"][0] < share["mean"] < share["ci95"][1] < 1
    assert arms(compared)["kept"]["share_of_known"] is None


def test_scores_are_held_against_who_wrote_a_row(compared: dict[str, Any]) -> None:
    result = compared["separation"]
    assert (result["rows"], result["theirs"]) == (4, 2)
    assert (result["auroc"]["gradient"]["mean"], result["auroc"]["personas"]["mean"]) == (1.0, 1.0)
    noise = ROWS.with_columns(**{name: pl.lit(1.0) for name in ("difficulty", "personas", "gradient", "short_training")})
    assert separation(noise, ROWS[[0, 3]])["auroc"]["gradient"]["mean"] == 0.5
    for all_or_none in (ROWS, ROWS[:0]):
        assert separation(noise, all_or_none)["auroc"] == {}


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no dataset of this study has selected rows"):
        compare(tmp_path, selections(study(), Node("selections")))
    alone = {name: entry for name, entry in DATASETS.items() if name != "fewer"}
    with pytest.raises(ConfigError, match="no rows of mixed are drawn at random"):
        compare(tmp_path, selections(study(datasets=alone), Node("selections")))


def test_the_figure_shows_every_arm_and_the_line_of_random_rows(compared: dict[str, Any]) -> None:
    _, axes = new_figure(6, 4)
    draw(axes, compared)
    drawn = {x: y for line in axes.containers for x, y in zip(*line.lines[0].get_data(), strict=True)}
    assert drawn == pytest.approx({k: arm["lift_over_control"]["mean"] for k, arm in enumerate(compared["arms"])})
    assert axes.lines[-2].get_ydata()[0] == pytest.approx(arms(compared)["fewer"]["lift_over_control"]["mean"])
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["rows at random", "without the other writer's rows", "gradient", "gradient"]


def test_arms_of_one_score_and_side_show_their_share() -> None:
    one, other, alone = (
        {"transform": "select", "score": "short_training", "keep": keep, "fraction": share}
        for keep, share in (("top", 0.1), ("top", 0.5), ("bottom", 0.5))
    )
    names = [name_of(arm, [one, other, alone]) for arm in (one, other, alone)]
    assert names == ["short training (10%)", "short training (50%)", "short training"]


def test_auroc_is_mann_whitneys() -> None:
    rng = np.random.default_rng(0)
    values, positive = rng.integers(8, size=60).astype(float), rng.random(60) < 0.4
    u = mannwhitneyu(values[positive], values[~positive]).statistic
    assert auroc(values, positive) == pytest.approx(u / (positive.sum() * (~positive).sum()))
    assert np.isnan(auroc(values, np.zeros(60, dtype=bool)))


def test_the_interval_of_a_ratio_holds_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        samples = [rng.normal(mean, 0.3, 4) for mean in (3.0, 1.6, 1.0)]
        estimate = ratio(samples, (1, -1, 0), (1, 0, -1))
        held += estimate.ci95 is None or estimate.ci95[0] <= 0.7 <= estimate.ci95[1]
    assert 0.92 < held / 400 < 0.985


def test_the_ends_of_a_ratios_interval_are_where_the_difference_begins_to_be_seen() -> None:
    samples = [[3.0, 3.2, 2.9], [1.5, 1.7, 1.4], [1.0, 1.1, 0.8]]
    estimate = ratio(samples, (1, -1, 0), (1, 0, -1))
    for r in estimate.ci95:
        low, high = contrast([((1 - r), samples[0]), (-1, samples[1]), (r, samples[2])]).ci95
        assert min(abs(low), abs(high)) < 1e-6
    assert ratio([[1.0, 2.0], [1.0, 2.0], [1.5, 1.6]], (1, -1, 0), (1, 0, -1)).ci95 is None


@pytest.mark.parametrize(
    ("samples", "mean"),
    [
        ([[0.2, 0.21, 0.22], [0.0] * 3, [0.0] * 3], 1.0),
        ([[0.12, 0.2, 0.15], [0.01] * 3, [0.01] * 3], 1.0),
        ([[0.4, 0.4], [0.2, 0.2], [0.1, 0.1]], 2 / 3),
    ],
)
def test_a_ratio_of_samples_that_do_not_vary_has_an_interval_of_no_width(samples: list[list[float]], mean: float) -> None:
    estimate = ratio(samples, (1, -1, 0), (1, 0, -1))
    assert estimate.mean == pytest.approx(mean)
    assert estimate.ci95 is None or estimate.ci95 == pytest.approx((mean, mean))
