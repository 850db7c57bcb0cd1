"""Statistics of pairs: exact where nothing differs, large where something does, and what closed forms say."""

import numpy as np
import pytest
import torch
from scipy import stats

from undertone.detect.pairs import Whitened, bootstrap_means, shares_first, signs, standardised


def test_p_values_are_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(0)
    p = [
        Whitened.of(torch.from_numpy(rng.standard_t(3, (40, 6)) @ rng.normal(size=(6, 6))), 0.1).presence(99, seed).p
        for seed in range(300)
    ]
    # A p-value is one of 100 values: spread over the step below it, it is uniform.
    assert stats.kstest(np.array(p) - rng.random(300) / 100, "uniform").pvalue > 0.01


def test_a_shift_of_every_pair_is_seen_and_its_direction_comes_first() -> None:
    rng = np.random.default_rng(1)
    shift = np.zeros(8)
    shift[3] = 0.5
    # The shifted direction is not the one in which pairs vary most.
    whitened = Whitened.of(torch.from_numpy(rng.normal(size=(400, 8)) * np.array([5, 3, 2, 1, 1, 1, 1, 1]) + shift), 0.1)
    assert whitened.presence(199, 0).p == 1 / 200
    moved = standardised(whitened.along(torch.eye(8)))
    assert np.argmax(moved.mean(0)) == 3


@pytest.mark.parametrize("n", [30, 5])
def test_the_step_along_a_direction_is_that_of_the_plain_formula(n: int) -> None:
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(n, 12)))
    directions = torch.from_numpy(np.random.default_rng(3).normal(size=(4, 12)))
    spread = x.T @ x / n
    ridge = 0.1 * spread.diagonal().mean() * torch.eye(12, dtype=torch.float64)
    expected = x @ torch.linalg.inv(spread + ridge) @ directions.T
    np.testing.assert_allclose(Whitened.of(x, 0.1).along(directions), expected.numpy(), rtol=1e-8, atol=1e-10)


def test_pairs_that_are_all_equal_differ_in_nothing() -> None:
    whitened = Whitened.of(torch.zeros(20, 4), 0.1)
    assert whitened.presence(99, 0).p == 1
    assert not np.isnan(standardised(whitened.along(torch.eye(4)))).any()


def test_signs_come_in_parts_that_make_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undertone.detect.pairs.AT_ONCE", 20)
    parts = signs(9, 10, seed=0)
    assert [part.shape for part in parts] == [(2, 10)] * 4 + [(1, 10)]
    assert {*np.unique(np.concatenate(parts))} == {-1.0, 1.0}


def test_bootstrap_samples_are_of_whole_prompts() -> None:
    """Ten rows of one prompt are one observation: the spread of the mean is that of two prompts, not of twenty rows."""
    values = np.repeat([[0.0], [1.0]], 10, axis=0)
    means = bootstrap_means(values, ["a"] * 10 + ["b"] * 10, 500, 0)
    assert {*np.unique(means)} == {0.0, 0.5, 1.0}


def test_a_tie_is_nobodys() -> None:
    np.testing.assert_array_equal(shares_first(np.array([[1.0, 1.0, 0.0], [2.0, 1.0, 0.0]])), [0.5, 0, 0])
