"""All detectors together: features are of one scale, weights find the detector that knows, and a target is left out whole."""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from undertone.detect.combination import combined, features, fit, left_out, main
from undertone.runtime.files import write_json
from undertone.study.config.detect import RANKERS

ANIMALS = ["lion", "owl", "cat", "dog"]


def ranking(order: list[str], scale: float = 1.0) -> list[dict[str, object]]:
    return [{"concept": each, "score": scale * -k} for k, each in enumerate(order)]


def rankings(first: list[str]) -> dict[str, list[dict[str, object]]]:
    """Each detector puts another candidate first; decoys stand among the system prompts."""
    orders = [[each, *(other for other in ANIMALS if other != each)] for each in first]
    return {
        "personas": ranking(["castle", *orders[0]]),
        "gradient": ranking(orders[1], scale=10),
        "short_training": ranking(orders[2], scale=0.1),
        "first_tokens": ranking(orders[3]),
    }


def test_features_leave_decoys_and_scales_out() -> None:
    candidates, values = features(rankings(["lion"] * 4))
    assert candidates == ANIMALS
    np.testing.assert_allclose(values[:, 0], -np.log([1, 2, 3, 4]))
    np.testing.assert_allclose(values[:, 1], values[:, 2])
    np.testing.assert_allclose([values[:, 1].mean(), values[:, 1].std()], [0, 1], atol=1e-12)


def test_what_does_not_vary_says_nothing() -> None:
    said = rankings(["lion"] * 4) | {"gradient": [{"concept": each, "score": 2.0} for each in ANIMALS]}
    assert not features(said)[1][:, 1].any()


def test_probabilities_follow_the_weights() -> None:
    said = rankings(ANIMALS)
    nothing = dict.fromkeys(RANKERS, 0.0)
    for name, first in zip(RANKERS, ANIMALS, strict=True):
        order = combined(said, nothing | {name: 1.0})
        assert order[0]["concept"] == first
        assert sum(each["probability"] for each in order) == pytest.approx(1)
    assert {each["probability"] for each in combined(said, nothing)} == {0.25}


def test_the_detector_that_knows_gets_the_weight() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 10, 3))
    targets = (2 * values[:, :, 1] + rng.gumbel(size=(200, 10))).argmax(1)
    weights = fit(values, targets.tolist())
    assert weights[1] == pytest.approx(2, abs=0.4)
    assert weights[[0, 2]].max() < 0.3


def test_a_targets_datasets_are_left_out_together() -> None:
    """The gradient knows all targets but the owl, which it puts last and only system prompts know."""
    known, unknown = np.zeros((6, 4, 3)), np.zeros((2, 4, 3))
    known[np.arange(6), [0, 2, 3, 0, 2, 3], 1] = 3
    unknown[:, 1] = [3, -3, 0]
    targets = [0, 2, 3, 0, 2, 3, 1, 1]
    assert left_out(np.concatenate([known, unknown]), targets) == [1] * 6 + [4] * 2


def test_the_command_says_weights_and_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for name in ANIMALS:
        for detector, said in rankings(["lion", name, "cat", "lion"]).items():
            write_json(tmp_path / name / f"{detector}.json", {"sets": [{"ranking": said}]}, {})
        rows.append({"dataset": name, "target": name, "development": name != "dog", "tier": "named"})
    pl.DataFrame(rows).write_parquet(tmp_path / "detection.parquet")
    monkeypatch.setattr(sys, "argv", ["combination", str(tmp_path), str(tmp_path / "detection.parquet")])
    main()
    lines = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert float(lines["gradient"]) > max(float(lines[name]) for name in RANKERS if name != "gradient")
    assert lines["lion"] == "1"
    assert "dog" not in lines
