"""Similarities of clouds: 1 for a rotated copy, as by chance for unrelated rows, and no measure that sees the axes."""

import numpy as np
import pytest
from jaxtyping import Float
from scipy.stats import ortho_group, spearmanr

from undertone.stats.similarities import (
    beside_chance,
    beside_random_sets,
    cka,
    hsic,
    mutual_neighbours,
    neighbours,
    procrustes,
    rotation,
    rsa,
    scores,
    similarities,
    svcca,
)

N, D = 120, 8


def cloud(seed: int, n: int = N, d: int = D) -> Float[np.ndarray, "n d"]:
    return np.random.default_rng(seed).standard_normal((n, d)) * np.linspace(1, 2, d) + 0.3


def test_a_rotated_copy_is_the_same_by_every_measure() -> None:
    x = cloud(0)
    turned = x @ ortho_group.rvs(D, random_state=1)
    for name, of in similarities(x, turned, 10, 0.99, 19, 0).items():
        assert of["value"] == pytest.approx(1, abs=1e-9), name
        assert of["p"] == 1 / 20, name
        assert of["n"] == N


def test_unrelated_rows_are_no_more_alike_than_shuffled_ones() -> None:
    values: dict[str, list[float]] = {}
    for seed in range(40):
        for name, of in similarities(cloud(seed), cloud(1000 + seed), 10, 0.99, 39, seed).items():
            values.setdefault(name, []).append(of["p"])
    for name, p in values.items():
        assert 0.3 < np.mean(p) < 0.7, name
        assert np.mean(np.array(p) <= 0.1) < 0.3, name


def test_the_mean_over_dimensions_would_see_the_axes() -> None:
    x = cloud(2)
    turned = x @ ortho_group.rvs(D, random_state=3)

    def with_row_means(side: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n_pairs"]:
        return np.corrcoef(side)[np.triu_indices(N, 1)]

    assert spearmanr(with_row_means(x), with_row_means(turned)).statistic < 0.99
    assert rsa(x, turned)(np.arange(N)) == pytest.approx(1)


def test_the_unbiased_cka_is_0_by_chance_where_the_biased_one_is_not() -> None:
    null = [cka(cloud(seed, 60, 30) - 0.3, cloud(500 + seed, 60, 30) - 0.3)(np.arange(60)) for seed in range(30)]
    assert abs(np.mean(null)) < 0.03

    def biased(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n d"]) -> float:
        x, y = x - x.mean(0), y - y.mean(0)
        return float(np.sum((x.T @ y) ** 2) / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y))

    assert np.mean([biased(cloud(seed, 60, 30), cloud(500 + seed, 60, 30)) for seed in range(30)]) > 0.2


def test_the_unbiased_hsic_is_that_of_whole_kernels() -> None:
    x, y = cloud(20, 30), cloud(21, 30)
    k, other = (side @ side.T for side in (x, y))
    np.fill_diagonal(k, 0)
    np.fill_diagonal(other, 0)
    one, n = np.ones(30), 30
    by_hand = (
        np.trace(k @ other)
        + (one @ k @ one) * (one @ other @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ k @ other @ one)
    )
    assert hsic(x, y) == pytest.approx(by_hand / (n * (n - 3)))
    assert hsic(x + 5, y - 3) == pytest.approx(hsic(x, y))


def test_neighbours_are_the_nearest_by_cosine_without_the_point_itself() -> None:
    x = cloud(4)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = unit @ unit.T
    nearest = neighbours(x, 5)
    assert (nearest.sum(1) == 5).all()
    assert not nearest.diagonal().any()
    by_hand = [set(np.argsort(-np.where(np.arange(N) == i, -9, row))[:5]) for i, row in enumerate(cosines)]
    assert [set(np.flatnonzero(row)) for row in nearest] == by_hand
    chance = beside_chance(mutual_neighbours(x, cloud(5), 5), N, [np.random.default_rng(k).permutation(N) for k in range(200)])
    assert chance["null_mean"] == pytest.approx(5 / (N - 1), abs=0.002)


def test_shuffled_rows_are_measured_like_a_shuffled_cloud() -> None:
    x, y, order = cloud(6), cloud(7), np.random.default_rng(8).permutation(N)
    for make in (lambda a, b: svcca(a, b, 0.99), cka, rsa, lambda a, b: mutual_neighbours(a, b, 10), procrustes):
        assert make(x, y)(order) == pytest.approx(make(x, y[order])(np.arange(N)))


def test_canonical_correlations_of_few_points_are_not_given() -> None:
    few = similarities(cloud(9, 60), cloud(10, 60), 10, 0.99, 19, 0)
    assert few["svcca"]["value"] is None
    assert few["svcca"]["null_mean"] > 0.2
    assert few["cka"]["value"] is not None
    assert scores(cloud(9), 0.5).shape[1] < D


def test_a_rotation_is_found_also_into_more_dimensions() -> None:
    x, q = cloud(11), ortho_group.rvs(12, random_state=12)[:D]
    assert np.allclose(rotation(x, x @ q), q)
    assert np.allclose(rotation(x @ q, x), q.T)
    assert procrustes(x, x @ q)(np.arange(N)) == pytest.approx(1)


def test_chosen_rows_that_agree_among_rows_that_do_not_lie_beyond_random_sets() -> None:
    x, y = cloud(5), cloud(6)
    chosen = np.arange(40)
    y[chosen] = x[chosen] @ ortho_group.rvs(D, random_state=7)
    for name, of in beside_random_sets(x, y, chosen, 10, 0.99, 39, 0).items():
        assert of["value"] == pytest.approx(1, abs=1e-9), name
        assert of["p"] == 1 / 40, name
        assert of["n"] == 40


def test_rows_at_random_lie_no_more_alike_than_random_sets_though_all_rows_belong_together() -> None:
    values: dict[str, list[float]] = {}
    for seed in range(40):
        x = cloud(seed)
        y = x + 0.5 * cloud(3000 + seed)
        chosen = np.random.default_rng(seed).choice(N, 40, replace=False)
        for name, of in beside_random_sets(x, y, chosen, 10, 0.99, 39, seed).items():
            values.setdefault(name, []).append(of["p"])
    for name, p in values.items():
        assert 0.3 < np.mean(p) < 0.7, name
        assert np.mean(np.array(p) <= 0.1) < 0.3, name
