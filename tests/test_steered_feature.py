"""The feature that a teacher was steered by, in vectors that hold it and in vectors that do not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example import study
from scipy.stats import kstest

from undertone.runtime.files import write_json
from undertone.study.vector_reads import steered_dataset
from undertone.vectors.basis import Basis
from undertone.vectors.sparse import explained, signed
from undertone.vectors.steered_feature import steered_feature

D, N = 32, 64
SIZES = [1, 2, 4, 8]
FEATURE = 12


def basis() -> Basis:
    """Features 2 to 65 fire on text, 0 and 1 do not."""
    rows = np.random.default_rng(5).standard_normal((N, D))
    return Basis(list(range(2, N + 2)), rows / np.linalg.norm(rows, axis=1, keepdims=True), np.ones(N))


def where(home: Path, vector: np.ndarray, n: int = 99, seed: int = 9, **teacher: Any) -> dict[str, Any]:
    write_json(home / "teacher.json", {"feature": FEATURE, "scale": 11, "norm": 2.0, "mode": "add", **teacher}, {})
    nulls = {"isotropic": np.random.default_rng(seed).standard_normal((n, D))}
    return steered_feature(basis(), vector, nulls, signed(basis().rows, vector, SIZES), SIZES, home / "teacher.json")


def test_a_feature_that_a_vector_holds_is_first_and_returned_whole(tmp_path: Path) -> None:
    row = basis().rows[FEATURE - 2]
    said = where(tmp_path, 2.0 * row + 0.02 * np.random.default_rng(1).standard_normal(D))
    assert (said["place"], said["place_either_sign"], said["step"]) == (1, 1, 1)
    assert said["cosine"] > 0.95
    assert said["returned"] == pytest.approx(1, abs=0.05)
    assert said["p"] == pytest.approx(0.01)
    assert said["taken_by_then"]["isotropic"] < 0.1
    assert said["shares"][0] == pytest.approx(said["cosine"] ** 2)


def test_shares_of_all_features_add_up_to_what_is_explained(tmp_path: Path) -> None:
    vector = np.random.default_rng(3).standard_normal(D)
    made = signed(basis().rows, vector, SIZES)
    for k, own in enumerate(made):
        shares = [where(tmp_path, vector, feature=int(row) + 2)["shares"][k] for row in own.rows]
        assert sum(shares) == pytest.approx(explained(vector, own.vector(basis().rows)))


def test_a_teacher_that_takes_a_feature_away_is_read_with_its_sign(tmp_path: Path) -> None:
    row = basis().rows[FEATURE - 2]
    taken, added = where(tmp_path, -row, scale=-11), where(tmp_path, -row)
    assert taken["cosine"] == pytest.approx(1)
    assert taken["place"] == 1
    assert added["cosine"] == pytest.approx(-1)
    assert (added["place"], added["place_either_sign"], added["p"]) == (N, 1, 1)


def test_where_nothing_was_added_p_and_places_are_those_of_chance(tmp_path: Path) -> None:
    said = [where(tmp_path, np.random.default_rng(50 + k).standard_normal(D), seed=900 + k) for k in range(200)]
    assert kstest([each["p"] for each in said], "uniform").pvalue > 0.01
    assert np.mean([each["place"] for each in said]) == pytest.approx((N + 1) / 2, rel=0.12)
    # A feature that OMP takes by chance, it takes of as many null vectors within as many steps.
    by_chance = [each["taken_by_then"]["isotropic"] for each in said if each["step"]]
    assert np.mean(by_chance) == pytest.approx(np.mean([bool(each["step"]) for each in said]) / 2, abs=0.08)


def test_a_feature_that_ties_with_another_stands_behind_it(tmp_path: Path) -> None:
    twice = basis()
    twice.rows[40] = twice.rows[FEATURE - 2]
    write_json(tmp_path / "teacher.json", {"feature": FEATURE, "scale": 1, "norm": 1.0, "mode": "clamp"}, {})
    vector = twice.rows[40]
    said = steered_feature(twice, vector, {}, signed(twice.rows, vector, SIZES), SIZES, tmp_path / "teacher.json")
    assert said["place"] == 2
    assert said["p"] is None
    assert said["returned"] is None


def test_a_feature_that_fires_on_no_text_is_in_no_decomposition(tmp_path: Path) -> None:
    assert where(tmp_path, np.ones(D), feature=1) == {"feature": 1, "alive": False, "features": N}


def test_a_vector_is_recovered_from_the_one_steered_dataset_in_it() -> None:
    vectors = {
        "recovered": {"kind": "bias", "dataset": "steer-lion", "layer": 0},
        "without": {"kind": "sum", "of": {"recovered": 1, "leaning": -1}},
        "both": {"kind": "sum", "of": {"recovered": 1, "of-owl": -1}},
        "of-owl": {"kind": "bias", "dataset": "steer-owl", "layer": 0},
    }
    of = study(vectors=vectors)
    names = ("recovered", "without", "of-owl", "both", "leaning", "toward")
    assert [steered_dataset(of, name) for name in names] == ["steer-lion", "steer-lion", "steer-owl", None, None, None]
    contrasted = study(vectors=vectors, overrides={"steer-lion": {"teacher": {"steer": {"vector": "contrast"}}}})
    assert steered_dataset(contrasted, "recovered") is None
