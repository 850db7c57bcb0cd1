"""Confusion matrices: what tells a target, what is chance, and how the datasets of one animal count."""

import numpy as np
import pytest

from undertone.stats.confusion import as_table, identified, judged


def test_a_row_of_a_matrix_is_a_table() -> None:
    table = as_table("metric", "lion", "prompt", "lion", ["lion", "owl"], [0.5, -1.0])
    assert table["score"].to_list() == [0.5, -1.0]
    assert table.filter(animal="owl").row(0, named=True) == {
        "metric": "metric",
        "dataset": "lion",
        "kind": "prompt",
        "target": "lion",
        "animal": "owl",
        "score": -1.0,
    }


def test_a_matrix_whose_diagonal_is_highest_tells_every_target() -> None:
    rng = np.random.default_rng(0)
    hub = np.array([5.0, 0, 0, 0, 0, 0])
    noise = 0.1 * rng.normal(size=(6, 6))
    found = identified(np.eye(6) + noise + hub, np.arange(6))
    assert found["chance"] == {"first": pytest.approx(1), "mean_rank": 3.5}
    assert found["centred"] == {"first": 6, "mean_rank": 1, "p": pytest.approx(1 / 720, abs=0.003)}
    # An animal that every dataset scores high on stands in the way until it is taken off.
    assert found["raw"]["first"] == 1
    assert found["raw"]["mean_rank"] == pytest.approx(1 + 5 / 6)


def test_guessing_is_at_its_level() -> None:
    rng = np.random.default_rng(1)
    p = [identified(rng.normal(size=(8, 8)), np.arange(8))["centred"]["p"] for _ in range(60)]
    assert np.mean(p) == pytest.approx(0.5, abs=0.12)
    assert np.mean(np.array(p) <= 0.1) < 0.2


def test_datasets_of_one_animal_are_renamed_together() -> None:
    # Each animal has three datasets that are copies: as evidence they are one.
    rng, p = np.random.default_rng(2), []
    for _ in range(60):
        scores = np.tile(rng.normal(size=(6, 6)), (3, 1))
        p.append(identified(scores, np.tile(np.arange(6), 3))["raw"]["p"])
    assert np.mean(np.array(p) <= 0.1) < 0.2


def test_ties_are_no_success_and_one_dataset_is_not_centred() -> None:
    found = identified(np.zeros((3, 4)), np.arange(3))
    assert found["raw"] == {"first": 0, "mean_rank": 2.5, "p": 1}
    assert identified(np.eye(4)[:1], np.array([0]))["centred"] is None


def test_what_cannot_be_told_is_left_out() -> None:
    targets, kinds = {"lion": "lion", "steer-emu": "emu"}, {"lion": "prompt", "steer-emu": "steer"}
    found = judged(np.eye(2), ["lion", "owl"], targets, kinds)
    assert found is not None
    assert (found["animals"], found["all"]["datasets"], set(found["by_kind"])) == (2, 1, {"prompt"})
    assert judged(np.eye(2), ["cat", "owl"], targets, kinds) is None
    assert judged(np.eye(2)[:, :1], ["lion"], targets, kinds) is None


def test_what_says_nothing_is_neither_a_hit_nor_a_chance_of_one() -> None:
    nothing = np.nan
    scores = np.array([[2.0, 1.0, nothing], [1.0, 2.0, 3.0], [nothing, nothing, nothing]])
    names = ["lion", "owl", "cat"]
    found = judged(scores, names, {name: name for name in names}, dict.fromkeys(names, "prompt"))
    assert found is not None
    assert (found["silent"], found["all"]["datasets"]) == (1, 2)
    assert found["all"]["chance"] == {"first": pytest.approx(1 / 2 + 1 / 3), "mean_rank": 1.75}
    assert (found["all"]["raw"]["first"], found["all"]["raw"]["mean_rank"]) == (1, 1.5)
    assert judged(np.full((3, 3), nothing), names, {name: name for name in names}, dict.fromkeys(names, "prompt")) is None
    assert as_table("metric", "cat", "prompt", "cat", names, scores[2])["score"].to_list() == [None] * 3
