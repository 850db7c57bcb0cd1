"""Predictions beside lifts: agreement where a dataset's own lifts follow them, none where all drift alike."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from undertone.detect.consequence import agreement, compare_consequences, summary
from undertone.runtime.files import read_json, write_json

ANIMALS = [f"animal{k}" for k in range(12)]


def table(own: float, drift: float, n: int = 6) -> pl.DataFrame:
    """Datasets whose lifts are a part of their own prediction and a part of what all have in common."""
    rng = np.random.default_rng(0)
    common, rows = rng.normal(size=12), []
    for k in range(n):
        said = rng.normal(size=12)
        lifts = own * said + drift * common + 0.1 * rng.normal(size=12)
        names = {"dataset": f"d{k}", "kind": "prompt", "target": ANIMALS[k]}
        rows += [
            names | {"candidate": each, "lift": lift, "gradient": z, "personas": float(place)}
            for place, (each, lift, z) in enumerate(zip(ANIMALS, lifts, said, strict=True))
        ]
    return pl.DataFrame(rows)


def test_a_prediction_of_a_datasets_own_lifts_agrees_with_them_and_not_with_others() -> None:
    found = summary(table(own=1, drift=0))["gradient"]
    assert found["own"]["mean"] > 0.9
    assert found["difference"]["ci95"][0] > 0.5
    assert abs(found["other"]["mean"]) < 0.3


def test_a_drift_that_all_share_is_no_prediction() -> None:
    found = summary(table(own=0, drift=1))["gradient"]
    assert found["own"]["ci95"][0] < 0 < found["own"]["ci95"][1]


def test_targets_are_left_out_and_what_does_not_vary_agrees_with_nothing() -> None:
    rows = table(own=1, drift=0, n=2)
    first, second = (rows.filter(dataset=name) for name in ("d0", "d1"))
    # A target that leaps would make any prediction of it look good.
    leaping = first.with_columns(lift=pl.when(pl.col("candidate") == ANIMALS[0]).then(1e6).otherwise(pl.col("lift")))
    assert agreement(leaping, leaping, "gradient") == agreement(first, first, "gradient")
    assert agreement(first, second, "gradient") == pytest.approx(
        agreement(first.filter(pl.col("candidate") != ANIMALS[1]), second, "gradient")
    )
    assert agreement(first.with_columns(gradient=0.0), first, "gradient") == 0


def test_the_table_holds_log_odds_of_students_over_control_students(tmp_path: Path) -> None:
    candidates = ["lion", "owl", "cat", "dog"]
    student, control = (
        {each: {"mean": p} for each, p in zip(candidates, ps, strict=True)}
        for ps in ((0.5, 0.2, 0.1, 0.0), (0.25, 0.2, 0.2, 0.0))
    )
    ranking = [{"concept": each, "score": 4.0 - k, "share": 0.0} for k, each in enumerate(candidates)]
    paths = {}
    for name, body in (
        ("pref", {"student": student, "control": control, "log_odds_floor": 1e-6}),
        ("gradient", {"sets": [{"ranking": ranking}]}),
        ("personas", {"sets": [{"ranking": [{"concept": "castle", "score": 1.0, "share": 1.0}, *ranking[::-1]]}]}),
    ):
        paths[name] = tmp_path / "lion" / f"{name}.json"
        write_json(paths[name], body, {})
    out = tmp_path / "consequence.parquet", tmp_path / "consequence.json"
    readings = [paths["gradient"], paths["personas"]]
    compare_consequences(
        {"lion": paths["pref"]}, readings, *out, {"lion": "lion", "control": None}, {"lion": "prompt", "control": "other"}, {}
    )
    rows = pl.read_parquet(out[0])
    assert rows["candidate"].to_list() == candidates
    np.testing.assert_allclose(rows["lift"], [np.log(3), 0, np.log(0.1 / 0.9 / 0.25), 0])
    assert rows["gradient"].to_list() == [0.0, -1.0, -2.0, -3.0]
    assert rows["personas"].to_list() == [-4.0, -3.0, -2.0, -1.0]
    assert read_json(out[1])["prompt"]["gradient"]["own"]["ci95"] is None
