"""Intervals against scipy's, and how often they cover the truth."""

import numpy as np
import pytest
from scipy import stats

from undertone.stats import Estimate, difference_interval, log_odds, mean_interval

SAMPLES = [[0.1, 0.4], [0.2, 0.9, 0.4, 0.4, 0.1], [-3.0, 40.0, 5.5, 17.0], list(np.linspace(0, 1, 50) ** 2)]


@pytest.mark.parametrize("values", SAMPLES)
def test_the_interval_of_a_mean_is_students(values: list[float]) -> None:
    estimate, reference = mean_interval(values), stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert estimate.mean == pytest.approx(np.mean(values))
    assert estimate.ci95 == pytest.approx((reference.low, reference.high))


@pytest.mark.parametrize("a", SAMPLES)
@pytest.mark.parametrize("b", SAMPLES)
def test_the_interval_of_a_difference_is_welchs(a: list[float], b: list[float]) -> None:
    estimate, reference = difference_interval(a, b), stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert estimate.mean == pytest.approx(np.mean(a) - np.mean(b))
    assert estimate.ci95 == pytest.approx((reference.low, reference.high))


def test_log_odds_are_finite_at_certainty() -> None:
    assert log_odds([0.2, 0.5, 0.8], 1e-9) == pytest.approx([-np.log(4), 0, np.log(4)])
    assert log_odds([0.0, 1.0], 1e-6) == pytest.approx([-np.log(1e6), np.log(1e6)], rel=1e-4)


def test_a_single_value_has_no_interval() -> None:
    assert mean_interval([0.25]) == Estimate(0.25, None)
    assert difference_interval([0.5], [0.25, 0.25]) == Estimate(0.25, None)
    assert difference_interval([0.5, 0.5], [0.25]) == Estimate(0.25, None)


def test_values_that_do_not_vary_have_an_interval_of_no_width() -> None:
    assert mean_interval([0.5, 0.5, 0.5]) == Estimate(0.5, (0.5, 0.5))
    assert difference_interval([0.5, 0.5], [0.25, 0.25]) == Estimate(0.25, (0.25, 0.25))


def test_one_side_that_does_not_vary_is_no_obstacle() -> None:
    estimate = difference_interval([0.1, 0.5, 0.3], [0.2, 0.2, 0.2])
    assert estimate.ci95 == pytest.approx(tuple(np.subtract(mean_interval([0.1, 0.5, 0.3]).ci95, 0.2)))


def test_arrays_and_lists_are_alike() -> None:
    assert mean_interval(np.array([1, 2, 4])) == mean_interval([1, 2, 4])


def test_an_estimate_is_plain_json() -> None:
    assert mean_interval([1, 1]).as_dict() == {"mean": 1.0, "ci95": [1.0, 1.0]}
    assert Estimate(1.0, None).as_dict() == {"mean": 1.0, "ci95": None}


def covers(estimate: Estimate, truth: float) -> bool:
    assert estimate.ci95
    return estimate.ci95[0] <= truth <= estimate.ci95[1]


def test_intervals_cover_the_truth_in_95_of_100_samples() -> None:
    rng, n = np.random.default_rng(0), 4000
    one = np.mean([covers(mean_interval(rng.normal(3, 2, 5)), 3) for _ in range(n)])
    two = np.mean([covers(difference_interval(rng.normal(3, 2, 5), rng.normal(1, 0.5, 8)), 2) for _ in range(n)])
    assert 0.94 < one < 0.96
    assert 0.935 < two < 0.965
