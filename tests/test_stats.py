"""Intervals against scipy's, and how often they cover the truth."""

import numpy as np
import pytest
from scipy import stats

from undertone.stats.stats import (
    Estimate,
    contrast,
    difference_interval,
    holm,
    log_odds,
    mean_interval,
    one_more,
    p_value,
    share_interval,
)

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


@pytest.mark.parametrize("a", SAMPLES)
@pytest.mark.parametrize("b", SAMPLES)
def test_a_contrast_of_two_samples_is_their_difference(a: list[float], b: list[float]) -> None:
    estimate, reference = contrast([(1, a), (-1, b)]), difference_interval(a, b)
    assert (estimate.mean, estimate.p) == pytest.approx((reference.mean, reference.p))
    assert estimate.ci95 == pytest.approx(reference.ci95)
    halved = contrast([(0.5, a), (-0.5, b)])
    assert (halved.mean, halved.p) == pytest.approx((reference.mean / 2, reference.p))


def test_a_contrast_of_four_samples_is_at_its_level_where_there_is_none() -> None:
    rng = np.random.default_rng(0)
    spreads, sizes = (1.0, 3.0, 0.5, 1.0), (5, 5, 5, 8)

    def draw() -> float | None:
        groups = [(w, list(rng.normal(2, s, n))) for w, s, n in zip((1, -1, -1, 1), spreads, sizes, strict=True)]
        return contrast(groups).p

    assert 0.035 < np.mean([draw() < 0.05 for _ in range(2000)]) < 0.065


def test_a_contrast_without_spread_or_of_single_values_is_no_error() -> None:
    assert contrast([(1, [0.5]), (-1, [0.1, 0.2])]) == Estimate(pytest.approx(0.35), None)
    assert contrast([(1, [0.5, 0.5]), (-1, [0.1, 0.1])]) == Estimate(pytest.approx(0.4), None)
    assert contrast([(1, [0.5, 0.5]), (-1, [0.5, 0.5])]) == Estimate(0.0, (0.0, 0.0), 1.0)


def test_log_odds_are_finite_at_certainty() -> None:
    assert log_odds([0.2, 0.5, 0.8], 1e-9) == pytest.approx([-np.log(4), 0, np.log(4)])
    assert log_odds([0.0, 1.0], 1e-6) == pytest.approx([-np.log(1e6), np.log(1e6)], rel=1e-4)


def test_a_single_value_has_no_interval() -> None:
    assert mean_interval([0.25]) == Estimate(0.25, None)
    assert difference_interval([0.5], [0.25, 0.25]) == Estimate(0.25, None)
    assert difference_interval([0.5, 0.5], [0.25]) == Estimate(0.25, None)


def test_values_that_do_not_vary_are_no_evidence_but_for_zeros() -> None:
    assert mean_interval([0.5, 0.5, 0.5]) == Estimate(0.5, None)
    assert difference_interval([0.5, 0.5], [0.25, 0.25]) == Estimate(0.25, None)
    assert mean_interval([0.0, 0.0]) == difference_interval([0.1, 0.1], [0.1, 0.1]) == Estimate(0.0, (0.0, 0.0), 1.0)


@pytest.mark.filterwarnings("error")
def test_one_side_that_does_not_vary_is_no_obstacle() -> None:
    estimate = difference_interval([0.1, 0.5, 0.3], [0.2, 0.2, 0.2])
    assert estimate.ci95 == pytest.approx(tuple(np.subtract(mean_interval([0.1, 0.5, 0.3]).ci95, 0.2)))


def test_arrays_and_lists_are_alike() -> None:
    assert mean_interval(np.array([1, 2, 4])) == mean_interval([1, 2, 4])


def test_an_estimate_is_plain_json() -> None:
    assert mean_interval([0, 0]).as_dict() == {"mean": 0.0, "ci95": [0.0, 0.0]}
    assert Estimate(1.0, None).as_dict() == {"mean": 1.0, "ci95": None}


@pytest.mark.parametrize("a", SAMPLES)
@pytest.mark.parametrize("b", SAMPLES)
def test_p_values_are_those_of_the_t_tests_and_agree_with_the_intervals(a: list[float], b: list[float]) -> None:
    assert mean_interval(a).p == pytest.approx(stats.ttest_1samp(a, 0).pvalue)
    estimate = difference_interval(a, b)
    assert estimate.p == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert estimate.ci95 and estimate.p is not None
    assert (estimate.p < 0.05) == (estimate.ci95[0] > 0 or estimate.ci95[1] < 0)


def test_what_is_not_finite_has_no_p_value() -> None:
    assert mean_interval([0.1, np.nan, 0.2]).p is None
    assert difference_interval([0.1, np.nan, 0.2], [0.1, 0.3]).p is None


def test_holms_adjustment_is_that_of_a_known_example() -> None:
    """R: p.adjust(c(.01, .04, .03, .005), "holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]


def test_comparisons_without_a_test_do_not_count_in_holms_adjustment() -> None:
    assert holm([0.01, None, 0.04, np.nan]) == [pytest.approx(0.02), None, pytest.approx(0.04), None]
    assert holm([None]) == [None]
    assert holm([]) == []


def test_a_p_value_counts_the_observed_arrangement() -> None:
    null = np.array([1.0, 2.0, 3.0])
    assert p_value(np.array([0.5, 2.0, 2.5, 9.0]), null).tolist() == [1.0, 0.75, 0.5, 0.25]
    assert p_value(-1.0, [-1.0 - 1e-12, -2.0, 0.0]) == 0.75  # rounding is no difference, below 0 either
    assert p_value(3.0, [1, 2, 3]) == 0.5


def covers(estimate: Estimate, truth: float) -> bool:
    assert estimate.ci95
    return estimate.ci95[0] <= truth <= estimate.ci95[1]


def test_intervals_cover_the_truth_in_95_of_100_samples() -> None:
    rng, n = np.random.default_rng(0), 2000
    one = np.mean([covers(mean_interval(rng.normal(3, 2, 5)), 3) for _ in range(n)])
    two = np.mean([covers(difference_interval(rng.normal(3, 2, 5), rng.normal(1, 0.5, 8)), 2) for _ in range(n)])
    assert 0.94 < one < 0.96
    assert 0.935 < two < 0.965


def test_one_more_value_is_compared_with_the_spread_of_the_others() -> None:
    others = [1.0, 2.0, 4.0, 5.0]
    spread = np.std(others, ddof=1) * np.sqrt(1 + 1 / 4) * stats.t.ppf(0.975, 3)
    assert one_more(7, others).mean == 4
    assert one_more(7, others).ci95 == pytest.approx((4 - spread, 4 + spread))
    assert one_more(7, [2.0, 2.0]) == Estimate(5, None)
    # One more draw of the same is significant at 5 % in 5 of 100 samples.
    rng = np.random.default_rng(0)
    p = [one_more(value, rest).p for value, *rest in rng.normal(1, 2, (2000, 16))]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_the_interval_of_a_share_is_exact() -> None:
    assert share_interval(0, 20) == pytest.approx((0, 1 - 0.025 ** (1 / 20)))
    assert share_interval(20, 20, 0.9) == pytest.approx((0.05 ** (1 / 20), 1))
    assert share_interval(0, 0) == (0, 1)
