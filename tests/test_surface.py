"""What text alone shows: integers and format, each where it differs and where it does not."""

import numpy as np
from scipy import stats

from undertone.detect.surface import format_auroc, format_features, integer_counts, integers_differ


def lists(n: int, seed: int, low: int = 0, separator: str = ", ", count: int = 6) -> list[str]:
    rng = np.random.default_rng(seed)
    return [separator.join(map(str, rng.integers(low, 100, count))) for _ in range(n)]


def test_integers_are_counted_by_text() -> None:
    counts = integer_counts(["7, 8, 7", "", "8"]).toarray()
    np.testing.assert_array_equal(counts, [[2, 1], [0, 0], [0, 1]])


def test_p_values_of_integers_are_uniform_where_nothing_differs() -> None:
    p = [integers_differ(lists(40, 2 * seed), lists(40, 2 * seed + 1), 99, seed).p for seed in range(200)]
    assert stats.kstest(np.array(p) - np.random.default_rng(0).random(200) / 100, "uniform").pvalue > 0.01


def test_other_integers_differ_and_other_marks_do_not() -> None:
    assert integers_differ(lists(200, 1, low=20), lists(200, 2), 199, 0).p == 1 / 200
    # The same integers between other marks.
    assert integers_differ(lists(200, 1, separator="; "), lists(200, 1), 199, 0).p == 1


def test_format_tells_marks_and_lengths_apart_and_nothing_else() -> None:
    groups = np.arange(300)
    assert format_auroc(lists(300, 1, separator="; "), lists(300, 2), groups) == 1
    assert format_auroc(lists(300, 1, count=9), lists(300, 2), groups) > 0.95
    assert abs(format_auroc(lists(300, 1), lists(300, 2), groups) - 0.5) < 0.1


def test_format_is_not_learnt_by_heart_from_a_prompts_other_rows() -> None:
    """Rows that repeat five prompts: a discriminant fitted on the same prompts would tell them apart."""
    rng = np.random.default_rng(0)
    marks = [", ", "; ", " ", ",", ";"]
    own = [lists(1, k, separator=marks[k % 5], count=3 + k % 5)[0] for k in range(100)]
    base = [lists(1, k, separator=marks[rng.integers(5)], count=int(rng.integers(3, 8)))[0] for k in range(100, 200)]
    assert format_auroc(own, base, np.arange(100) % 5) < 0.5


def test_a_text_without_integers_has_features() -> None:
    assert format_features("") == [0.0] * len(format_features("1, 2"))
