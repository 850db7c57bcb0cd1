"""Pearson's r, and where there is none."""

import numpy as np
import pytest
from scipy.stats import pearsonr

from undertone.stats.correlation import pearson


def test_r_is_that_of_scipy() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 20))
    assert pearson(a, b.tolist()) == pytest.approx(pearsonr(a, b).statistic)


def test_there_is_none_of_few_pairs_or_where_one_does_not_vary() -> None:
    assert pearson([1.0, 2.0], [2.0, 1.0]) is None
    assert pearson([1.0, 2.0, 3.0], [5.0, 5.0, 5.0]) is None
