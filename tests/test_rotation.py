"""A model whose residual stream is turned: another's SAE explains little of it as it is, and all after one rotation."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from jaxtyping import Float
from sae_lens import StandardSAE, StandardSAEConfig
from scipy.stats import ortho_group

from undertone.pairs.activity import Side
from undertone.pairs.layers import beside_shifts, prepared, sampled, varying
from undertone.pairs.rotation import Streams, by_chance, decoder_rows, errors, estimate, explained, fitted, reconstruction
from undertone.stats.similarities import mutual_neighbours
from undertone.study.config.pair_settings import Layers, Rotation

N, D, FEATURES, CONTEXTS = 4_000, 16, 8, 100
SETTINGS = Rotation(shifts=5, bootstraps=50)


def dictionary() -> Float[np.ndarray, "n_features d"]:
    rows = np.random.default_rng(0).standard_normal((FEATURES, D))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def sparse_sums(seed: int) -> Float[np.ndarray, "n d"]:
    """Points that are sums of few rows of the dictionary."""
    rng = np.random.default_rng(seed)
    active = (rng.random((N, FEATURES)) < 0.3) * rng.gamma(4, 1, (N, FEATURES))
    return active @ dictionary() + 0.2 + 0.1 * rng.standard_normal((N, D))


def sae_of(rows: Float[np.ndarray, "n_features d"], bias: Float[np.ndarray, " d"]) -> StandardSAE:
    """An SAE that reads what its rows are present with, and nothing of other directions."""
    sae = StandardSAE(StandardSAEConfig(d_in=rows.shape[1], d_sae=len(rows), apply_b_dec_to_input=True))
    sae.W_dec.data = torch.from_numpy(rows).float()
    sae.W_enc.data = torch.from_numpy(np.linalg.pinv(rows)).float()
    sae.b_dec.data = torch.from_numpy(bias).float()
    return sae.requires_grad_(False)


@pytest.fixture(scope="module")
def pair() -> dict[str, Any]:
    x, q = sparse_sums(1), ortho_group.rvs(D, random_state=2)
    y = x @ q.T + 3  # what b has is what a has, turned and moved
    row = np.repeat(np.arange(CONTEXTS), N // CONTEXTS)
    half = row % 2 == 0
    streams = Streams(x[half], y[half], x[~half], y[~half], row[half], row[~half])
    bias = np.full(D, 0.2)
    saes = (sae_of(dictionary(), bias), sae_of(dictionary() @ q.T, bias @ q.T + 3))
    model: Any = SimpleNamespace()
    a, b = (Side(model, sae, 1, at) for sae, at in zip(saes, (x, y), strict=True))
    return {"streams": streams, "a": a, "b": b, "q": q}


def test_after_one_rotation_the_sae_explains_what_it_explains_of_its_own_model(pair: dict[str, Any]) -> None:
    streams, maps = pair["streams"], fitted(pair["streams"], SETTINGS)
    own = explained(reconstruction(pair["a"], streams.score_a, streams.score_row))
    ceiling = explained(reconstruction(pair["b"], streams.score_b, streams.score_row))
    through = {name: explained(errors(pair["a"], streams, each)) for name, each in maps.items()}
    assert own > 0.9
    assert through["procrustes"] == pytest.approx(own, abs=1e-3)
    assert through["procrustes"] == pytest.approx(ceiling, abs=1e-3)
    assert through["ridge"] == pytest.approx(own, abs=0.05)
    assert through["identity"] < 0.5
    assert through["random"] < 0.5
    assert np.allclose(maps["procrustes"].there, pair["q"], atol=1e-6)


def test_a_rotation_fitted_on_text_that_does_not_belong_together_explains_less(pair: dict[str, Any]) -> None:
    streams = pair["streams"]
    null = [explained(errors(pair["a"], streams, each)) for each in by_chance(streams, SETTINGS)]
    assert len(null) == 5
    assert max(null) < explained(errors(pair["a"], streams, fitted(streams, SETTINGS)["procrustes"])) - 0.1


def test_decoder_rows_are_the_same_after_the_rotation_and_not_shuffled(pair: dict[str, Any]) -> None:
    trivial = pl.Series([None] * FEATURES, dtype=pl.String)
    table = pl.DataFrame({"a": range(FEATURES), "b": range(FEATURES), "way": "one", "trivial": trivial})
    turn = fitted(pair["streams"], SETTINGS)["procrustes"]
    same = decoder_rows(table, pair["a"], pair["b"], turn, SETTINGS)
    assert same is not None
    assert same["median_cosine"] == pytest.approx(1, abs=1e-5)
    assert same["above_07"] == 1
    assert same["shuffled"]["above_07"] < 0.2
    assert decoder_rows(table.clear(), pair["a"], pair["b"], turn, SETTINGS) is None


def test_widths_that_differ_have_no_identity(pair: dict[str, Any]) -> None:
    streams = pair["streams"]
    wider = streams._replace(fit_b=np.pad(streams.fit_b, ((0, 0), (0, 3))), score_b=np.pad(streams.score_b, ((0, 0), (0, 3))))
    maps = fitted(wider, SETTINGS)
    assert set(maps) == {"procrustes", "ridge"}
    assert maps["procrustes"].there.shape == (D + 3, D)
    own = explained(reconstruction(pair["a"], streams.score_a, streams.score_row))
    assert explained(errors(pair["a"], wider, maps["procrustes"])) == pytest.approx(own, abs=1e-3)


def test_the_interval_of_an_explained_variance_covers_that_of_other_contexts(pair: dict[str, Any]) -> None:
    streams = pair["streams"]
    first = estimate(reconstruction(pair["a"], streams.score_a, streams.score_row), SETTINGS)
    low, high = first["ci95"]
    assert low < first["explained_variance"] < high
    assert high - low < 0.1
    assert low < explained(reconstruction(pair["a"], streams.fit_a, streams.fit_row)) < high


def planted_layers(seed: int) -> list[Float[np.ndarray, "n d"]]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((600, 6)) for _ in range(3)]


def test_a_model_s_layers_are_most_like_themselves_and_beyond_the_null_of_the_maximum() -> None:
    layers, settings = planted_layers(3), Layers(shifts=19, tokens=600)
    q = ortho_group.rvs(6, random_state=4)
    turned = [layer @ q + 0.1 * noise for layer, noise in zip(layers, planted_layers(5), strict=True)]
    row = np.repeat(np.arange(60), 10)
    found = beside_shifts([layers, turned], row, lambda x, y: mutual_neighbours(x, y, 10), settings)
    assert [each["layer"] for each in found["best_of_a"]] == [0, 1, 2]
    assert [each["layer"] for each in found["best_of_b"]] == [0, 1, 2]
    assert all(each["p"] == 1 / 20 for each in found["best_of_a"])
    unrelated = beside_shifts([layers, planted_layers(6)], row, lambda x, y: mutual_neighbours(x, y, 10), settings)
    assert min(each["p"] for each in unrelated["best_of_a"]) > 1 / 20
    # The greatest of three lies above the mean of each, and so must its null.
    assert all(each["null_max"] > np.max(unrelated["null_mean"]) for each in unrelated["best_of_a"])


def test_places_that_are_only_their_token_are_not_compared() -> None:
    rng = np.random.default_rng(8)
    words = np.repeat(np.arange(4), 200)
    stream = rng.standard_normal((4, 6))[words] + 0.1 * rng.standard_normal((800, 6)) * (words > 0)[:, None]
    varies = varying([stream.astype(np.float32)], words)
    assert not varies[words == 0].any()
    assert varies[words > 0].all()
    assert (words[sampled(words, varies, Layers(tokens=100))] > 0).all()


def test_layers_that_share_the_token_alone_are_unlike_given_it() -> None:
    rng = np.random.default_rng(7)
    words = rng.integers(0, 30, 600)
    tables = [rng.standard_normal((30, 6)) * 5 for _ in range(2)]
    x, y = (table[words] + rng.standard_normal((600, 6)) for table in tables)
    plain, given = (
        mutual_neighbours(*(prepared(side.astype(np.float32), words, way) for side in (x, y)), 10)(np.arange(600))
        for way in ("plain", "given_token")
    )
    assert plain > 0.3
    assert given < 0.05
