"""Differences over blocks: estimates and errors are the textbook's, the null has its level, a planted effect is found."""

import numpy as np
import pytest
import torch
from scipy import stats

from undertone.stats import blocks
from undertone.stats.blocks import Blocks, Independent, Paired, judge

N_BLOCKS, D = 20, 30


def drawn(rng: np.random.Generator, shift: float = 0.0, n_blocks: int = N_BLOCKS, d: int = D, even: bool = False) -> Blocks:
    """Blocks of 5 to 15 tokens of skewed features, the first of them shifted."""
    count = np.full(n_blocks, 10.0) if even else rng.integers(5, 16, n_blocks).astype(float)
    total = np.stack([rng.exponential(1.0, (int(n), d)).sum(0) for n in count])
    total[:, 0] += shift * count
    return torch.from_numpy(total), torch.from_numpy(count)


def test_with_blocks_of_one_size_it_is_welchs_t() -> None:
    rng = np.random.default_rng(0)
    a, b = drawn(rng, even=True), drawn(rng, n_blocks=12, even=True)
    found = Independent(a, b).observed()
    x, y = (a[0] / 10).numpy(), (b[0] / 10).numpy()
    expected = stats.ttest_ind(x, y, equal_var=False)
    assert found.t.numpy() == pytest.approx(expected.statistic, rel=1e-8)
    assert found.freedom.numpy() == pytest.approx(expected.df, rel=1e-8)
    assert found.mean.numpy() == pytest.approx(x.mean(0) - y.mean(0))


def test_with_blocks_of_one_size_pairs_give_the_paired_t() -> None:
    rng = np.random.default_rng(1)
    a, b = drawn(rng, even=True), drawn(rng, even=True)
    found = Paired(a, b).observed()
    expected = stats.ttest_rel((a[0] / 10).numpy(), (b[0] / 10).numpy())
    assert found.t.numpy() == pytest.approx(expected.statistic, rel=1e-8)
    assert set(found.freedom.tolist()) == {N_BLOCKS - 1}


def test_the_standard_error_of_a_ratio_is_the_spread_of_many_draws() -> None:
    rng = np.random.default_rng(2)
    found = [Independent(drawn(rng, d=1), drawn(rng, d=1)).observed() for _ in range(1500)]
    spread = torch.stack([each.mean for each in found]).std()
    assert float(torch.stack([each.se for each in found]).mean()) == pytest.approx(float(spread), rel=0.06)
    # And it is the jackknife's, nearly.
    a, b = drawn(rng), drawn(rng)
    keep = ~torch.eye(N_BLOCKS, dtype=torch.bool)
    variance = 0.0
    for total, count in (a, b):
        left = torch.stack([total[k].sum(0) / count[k].sum() for k in keep])
        variance = variance + (left - left.mean(0)).square().sum(0) * (N_BLOCKS - 1) / N_BLOCKS
    assert Independent(a, b).observed().se.numpy() == pytest.approx(variance.sqrt().numpy(), rel=0.1)


def test_a_permutation_is_the_statistic_of_permuted_blocks() -> None:
    rng = np.random.default_rng(3)
    a, b = drawn(rng), drawn(rng, n_blocks=8)
    pair = Independent(a, b)
    weights = torch.from_numpy(rng.permutation([1.0] * N_BLOCKS + [0.0] * 8)).unsqueeze(0)
    on = weights[0].bool()
    total, count = torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])
    expected = Independent((total[on], count[on]), (total[~on], count[~on])).observed()
    assert pair.assigned(weights).first().t.numpy() == pytest.approx(expected.t.numpy(), rel=1e-7)
    assert all(each.sum() == N_BLOCKS for each in (weights,))


def test_flipped_signs_are_the_statistic_of_swapped_models() -> None:
    rng = np.random.default_rng(4)
    a = drawn(rng)
    b = (a[0] + torch.from_numpy(rng.normal(size=a[0].shape)), a[1])
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], N_BLOCKS))
    swap = (signs < 0).unsqueeze(1)
    expected = Paired((torch.where(swap, b[0], a[0]), a[1]), (torch.where(swap, a[0], b[0]), a[1])).observed()
    assert Paired(a, b).assigned(signs.unsqueeze(0)).first().t.numpy() == pytest.approx(expected.t.numpy(), rel=1e-7)


@pytest.mark.parametrize("design", ["independent", "paired"])
def test_the_null_is_rejected_at_its_level_and_a_shift_is_found(design: str) -> None:
    rng = np.random.default_rng(5)
    first = torch.eye(D)[0].double()

    def draw(shift: float) -> Independent | Paired:
        a = drawn(rng, shift)
        if design == "independent":
            return Independent(a, drawn(rng, n_blocks=15))
        noise = torch.from_numpy(rng.normal(scale=3.0, size=a[0].shape))
        return Paired(a, (a[0] + noise - shift * a[1].unsqueeze(1) * first, a[1]))

    nulls = [judge(draw(0.0), 99, seed) for seed in range(400)]
    families = np.mean([test.p_max.min() <= 0.05 for test in nulls])
    assert 0.02 < families < 0.085  # .05 ± 3 standard errors
    assert np.mean([test.p < 0.05 for test in nulls]) == pytest.approx(0.05, abs=0.012)
    assert np.mean([(test.q < 0.05).any() for test in nulls]) < 0.1
    assert np.mean([test.p_max <= 0.05 for test in nulls]) < 0.006
    found = [judge(draw(1.5), 99, seed) for seed in range(20)]
    assert all(test.order()[0] == 0 and test.p_max[0] == 0.01 and test.rank(0) == 1 for test in found)
    assert np.mean([(test.p_max[1:] <= 0.05).any() for test in found]) < 0.3


def test_permutations_come_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = drawn(np.random.default_rng(6)), drawn(np.random.default_rng(7))
    whole = judge(Independent(a, b), 50, 1)
    monkeypatch.setattr(blocks, "MAX_TABLE_NUMBERS", 1)
    assert [each.mean.shape[0] for each in Independent(a, b).permuted(3, 1)] == [1, 1, 1]
    parts = judge(Independent(a, b), 50, 1)
    assert np.array_equal(whole.p_max, parts.p_max)


def test_features_that_never_vary_are_not_tested() -> None:
    rng = np.random.default_rng(8)
    a, b = drawn(rng), drawn(rng)
    for total, count in (a, b):
        total[:, 1] = 0  # never active
        total[:, 2] = 7 * count * (1 + 1e-8 * torch.randn(N_BLOCKS))  # always the same, up to rounding
    for pair in (
        Independent(a, b),
        Paired(a, (a[0] + torch.tensor([1.0, 0, 0] + [0] * (D - 3)) * torch.randn(N_BLOCKS, 1), a[1])),
    ):
        test = judge(pair, 20, 0)
        assert not test.tested[1:3].any()
        assert test.tested[0]
        assert test.p[1] == test.q[1] == test.p_max[1] == 1
        assert 1 not in test.order()
        assert test.difference.t[1] == 0


def test_a_difference_that_is_the_same_everywhere_varies_no_more_than_rounding() -> None:
    """As of activations that are steered by a constant: their order is that of the shifts, and not of float32's noise."""
    rng = np.random.default_rng(11)
    a = drawn(rng)
    shift = torch.arange(D).double() / D
    noise = 1 + 1e-8 * torch.from_numpy(rng.standard_normal((N_BLOCKS, D)))
    size = torch.ones_like(a[0]) * a[1].unsqueeze(1) * 3
    test = judge(Paired((size + shift * a[1].unsqueeze(1) * noise, a[1]), (size, a[1])), 20, 0)
    assert test.order() == list(range(D - 1, 0, -1))
    assert float(test.difference.t[D - 1]) == pytest.approx(float(shift[D - 1]) / 3e-6, rel=1e-3)


def test_groups_that_differ_by_a_constant_alone_are_further_apart_than_all_permutations() -> None:
    rng = np.random.default_rng(13)
    a, b = drawn(rng), drawn(rng)
    a[0][:, 1], b[0][:, 1] = 7 * a[1], 6 * b[1]
    test = judge(Independent(a, b), 99, 0)
    assert float(test.difference.t[1]) == pytest.approx(1 / 7e-6, rel=1e-3)
    assert test.order()[0] == 1
    assert test.p_max[1] == 0.01


def test_blocks_without_tokens_are_left_out() -> None:
    a, b = drawn(np.random.default_rng(9)), drawn(np.random.default_rng(10))
    padded = (torch.cat([a[0], torch.zeros(3, D)]), torch.cat([a[1], torch.zeros(3)]))
    assert torch.equal(Independent(padded, b).observed().se, Independent(a, b).observed().se)
    assert torch.equal(Paired(padded, (padded[0] * 2, padded[1])).observed().t, Paired(a, (a[0] * 2, a[1])).observed().t)


def test_what_cannot_be_compared_is_refused() -> None:
    a, b = drawn(np.random.default_rng(11)), drawn(np.random.default_rng(12))
    with pytest.raises(ValueError, match="not of the same rows"):
        Paired(a, b)
    with pytest.raises(ValueError, match="needs two"):
        Independent(a, (b[0][:1], b[1][:1]))
    with pytest.raises(ValueError, match="needs two"):
        Paired((a[0][:1], a[1][:1]), (a[0][:1], a[1][:1]))
