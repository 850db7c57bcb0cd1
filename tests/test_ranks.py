"""Ranks count from the highest, and equal values share the mean of their places."""

import pytest
import torch

from undertone.stats.ranks import midranks, place_in, rank, rank_of


@pytest.mark.parametrize(
    ("values", "ranks"),
    [
        ([3.0, 1.0, 2.0], [1, 3, 2]),
        ([3, 5, 3, 1], [2.5, 1, 2.5, 4]),
        ([0.0, 0.0], [1.5, 1.5]),
        ([[1, 2], [4, 4]], [[2, 1], [1.5, 1.5]]),
        ([-1.0, 0.0, float("-inf")], [2, 1, 3]),
    ],
)
def test_equal_values_share_the_mean_of_their_places(values: list[float], ranks: list[float]) -> None:
    assert midranks(values).tolist() == ranks


def test_a_feature_among_512_that_are_all_0_is_at_the_exact_middle() -> None:
    assert rank(torch.zeros(512), 463) == 256.5


def test_a_name_is_placed_by_its_value() -> None:
    assert rank_of({"lion": 1.0, "owl": 3.0, "cat": 1.0}, "lion") == 2.5
    assert rank_of({"lion": 1.0}, "owl") is None
    assert rank_of({"lion": 1.0}, None) is None
    assert rank_of({}, "owl") is None
    assert rank_of({"lion": 1.0}, "lion") is None


def test_a_place_in_an_order_is_shared_by_equal_neighbours_alone() -> None:
    order = [("lion", 1.0), ("owl", 1.0), ("cat", 2.0), ("dog", 1.0)]
    assert [place_in(order, each) for each in ("lion", "owl", "cat", "dog", "bear")] == [1.5, 1.5, 3.0, 4.0, None]
    assert place_in([], "lion") is None
    assert place_in([("lion", 1.0)], "lion") == 1
