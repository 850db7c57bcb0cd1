"""Decompositions of planted vectors, beside null vectors, and whether what they find keeps the effect."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted import saved_sae
from sae_lens import SAE, StandardSAE, StandardSAEConfig
from sklearn.linear_model import orthogonal_mp
from test_dose import CANDIDATES, files, measured, of_vector, raising
from test_vectors import sided

from undertone.lm.loading import LoadedModel
from undertone.runtime.files import read_json
from undertone.study.config.vectors import Decomposition
from undertone.vectors.basis import Basis
from undertone.vectors.decomposition import MEANS, compared, decompose, encoded_as_is
from undertone.vectors.decomposition_plot import plot_decomposition
from undertone.vectors.sparse import METHODS, Sparse, explained
from undertone.vectors.steering_by import Direction
from undertone.vectors.vector import make_vector

D, N = 32, 64
SIZES = [1, 2, 4]
CFG = Decomposition(sparsities=SIZES, nulls=12, bootstraps=4, controls=4, tokens=100)


def rows(seed: int = 5, n: int = N, d: int = D) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((n, d))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def planted(dictionary: np.ndarray, seed: int = 0) -> np.ndarray:
    return 3 * dictionary[5] - 2 * dictionary[17] + 0.05 * np.random.default_rng(seed).standard_normal(dictionary.shape[1])


@pytest.mark.parametrize("method", ["OMP", "lasso"])
def test_methods_with_signs_recover_a_planted_pair(method: str) -> None:
    dictionary = rows()
    one, two, _ = METHODS[method](dictionary, planted(dictionary), SIZES)
    assert two.rows.tolist() == [5, 17]
    assert two.weights.tolist() == pytest.approx([3, -2], abs=0.15)
    assert one.rows.tolist() == [5]
    assert explained(planted(dictionary), two.vector(dictionary)) > 0.97


def test_without_negative_weights_a_negative_feature_is_not_found() -> None:
    dictionary = rows()
    made = METHODS["non-negative"](dictionary, planted(dictionary), SIZES)
    assert all(17 not in each.rows for each in made)
    assert all((each.weights >= 0).all() for each in made)
    signed = METHODS["OMP"](dictionary, planted(dictionary), SIZES)
    assert explained(planted(dictionary), made[1].vector(dictionary)) < explained(
        planted(dictionary), signed[1].vector(dictionary)
    )


def test_the_pursuit_is_sklearns() -> None:
    dictionary = rows()
    for seed in range(4):
        vector = np.random.default_rng(seed).standard_normal(D)
        for size, made in zip([1, 3, 8], METHODS["OMP"](dictionary, vector, [1, 3, 8]), strict=True):
            expected = orthogonal_mp(dictionary.T, vector, n_nonzero_coefs=size)
            np.testing.assert_allclose(made.vector(dictionary), expected @ dictionary, atol=1e-9)


def test_a_decomposition_explains_no_less_with_more_rows_and_never_more_than_there_is() -> None:
    dictionary, vector = rows(), np.random.default_rng(1).standard_normal(D)
    for method in METHODS.values():
        shares = [explained(vector, made.vector(dictionary)) for made in method(dictionary, vector, [1, 2, 4, 8, 16])]
        assert shares == sorted(shares)
        assert 0 < shares[0] < shares[-1] <= 1 + 1e-9


def test_more_rows_than_there_are_directions_are_no_more_than_that() -> None:
    dictionary = rows(n=3)
    vector = np.random.default_rng(1).standard_normal(D)
    assert [len(made.rows) for made in METHODS["OMP"](dictionary, vector, [2, 8])] == [2, 3]


@pytest.mark.parametrize("method", list(METHODS))
def test_a_random_vector_is_explained_no_more_than_null_vectors_are(method: str) -> None:
    basis = Basis(list(range(N)), rows(), np.ones(N))
    nulls = {"isotropic": np.random.default_rng(9).standard_normal((30, D))}
    excess = []
    for seed in range(20):
        vector = np.random.default_rng(100 + seed).standard_normal(D)
        excess.append([entry["excess"] for _, entry in compared(basis, vector, METHODS[method], nulls, CFG)])
    assert np.abs(np.mean(excess, axis=0)).max() < 0.05
    own = [entry["z"] for _, entry in compared(basis, planted(basis.rows), METHODS[method], nulls, CFG)]
    assert max(own) > 3


def sae_of(loaded: LoadedModel, dictionary: np.ndarray) -> SAE[Any]:
    sae = StandardSAE(StandardSAEConfig(d_in=D, d_sae=N)).requires_grad_(False)
    sae.W_dec.copy_(torch.tensor(dictionary).float())
    sae.W_enc.copy_(sae.W_dec.T)
    sae.b_enc.fill_(0.2)
    sae.b_dec.copy_(torch.randn(D, generator=torch.Generator().manual_seed(8)))
    return sae


def test_the_encoder_fails_on_a_vector(tmp_path: Path, loaded: LoadedModel) -> None:
    dictionary = rows()
    vector = torch.tensor(planted(dictionary)).float()
    direction = Direction.read(of_vector(tmp_path, vector))
    said = encoded_as_is(sae_of(loaded, dictionary), vector, direction)
    assert said["as it is"]["features"] > 10
    assert said["as it is"]["shared_with_zero"] > 5
    assert max(said[how]["explained"] for how in ("as it is", "as long as a residual")) < 0.8


ENTRY = {"kind": "contrast", "target": "lion", "positive": sided("lion"), "negative": sided("owl")}


def of_contrast(home: Path, record: Path, text: Path, entry: dict[str, Any] = ENTRY) -> Path:
    """`vector.json` of a contrast of prompts after layer 1."""
    settings = {"entry": entry, "target": "lion", "vector": {"nulls": 6, "tokens": 100}}
    empty = dict.fromkeys(("prompts", "questions", "sae", "teacher", "source"))
    out = {"vector": home / "vector.json", "tensors": home / "vector.safetensors"}
    make_vector(record, text, **empty, parts=[], **out, settings=settings, stamp={})
    return home / "vector.json"


def decomposed(
    home: Path, record: Path, sae: Path, vector: Path, entry: dict[str, Any], teacher: Path | None = None, **cfg: Any
) -> dict[str, Any]:
    given, result = files(home), home / "decomposition.json"
    own = Decomposition.model_validate({**CFG.model_dump(), **cfg})
    settings = {
        "entry": entry,
        "target": "lion",
        "vector": {"nulls": 6, "tokens": 100},
        "decomposition": own.model_dump(),
        "pref": {"candidates": CANDIDATES},
    }
    dose = home / "dose.json"
    decompose(record, given["text"], None, given["questions"], sae, vector, dose, teacher, result, settings, {})
    return read_json(result)


def test_the_difference_of_mean_activations_and_errors_is_the_vector(tmp_path: Path, record: Path, loaded: LoadedModel) -> None:
    vector = of_contrast(tmp_path, record, files(tmp_path)["text"])
    sae = saved_sae(record, sae_of(loaded, rows()), tmp_path, layer=1)
    measured(tmp_path, record, vector)
    said = decomposed(tmp_path, record, sae, vector, ENTRY)
    assert said["difference"]["mismatch"] < 1e-4
    assert said["difference"]["error_share"] > 0
    assert set(said["methods"]) == {*METHODS, MEANS}
    assert all(0 <= each["stability"] <= 1 for each in said["methods"]["OMP"])
    assert set(said["methods"]["OMP"][0]["nulls"]) == {"shuffled labels", "isotropic", "N(0, Cov)"}
    features = [each["feature"] for each in said["methods"]["OMP"][2]["features"]]
    assert set(map(str, features)) <= set(said["tokens"])
    plot_decomposition(tmp_path / "decomposition.json", tmp_path / "vector-lion/plots/decomposition.png")
    assert (tmp_path / "vector-lion/plots/decomposition.png").stat().st_size > 10_000


def test_sets_without_pairs_have_no_redrawn_pairs(tmp_path: Path, record: Path, loaded: LoadedModel) -> None:
    entry = {"kind": "contrast", "target": "lion", "positive": sided("lion"), "negative": sided("owl")[:5]}
    vector = of_contrast(tmp_path, record, files(tmp_path)["text"], entry)
    sae = saved_sae(record, sae_of(loaded, rows()), tmp_path, layer=1)
    measured(tmp_path, record, vector)
    said = decomposed(tmp_path, record, sae, vector, entry)
    assert said["difference"]["mismatch"] < 1e-4
    assert all(each["stability"] is None for each in said["methods"]["OMP"])


def test_what_is_the_whole_vector_keeps_its_effect_and_random_rows_do_not(
    tmp_path: Path, record: Path, loaded: LoadedModel
) -> None:
    direction = raising(loaded, "lion")
    dictionary = rows()
    dictionary[5] = direction.double().numpy()
    vector = of_vector(tmp_path, 3 * direction)
    dose = measured(tmp_path, record, vector)
    assert dose["window"]
    sae = saved_sae(record, sae_of(loaded, dictionary), tmp_path, layer=1)
    said = decomposed(tmp_path, record, sae, vector, {"kind": "file", "file": "x"})
    for method in METHODS:
        first = said["methods"][method][0]
        assert first["explained"] == pytest.approx(1, abs=1e-4)
        assert [each["feature"] for each in first["features"]] == [5]
        assert first["lift_kept"] == pytest.approx(1, abs=1e-3)
        assert first["kl"] == pytest.approx(said["effect"]["kl"], rel=1e-3)
    assert said["effect"]["lift"] == pytest.approx(
        next(row["lift"]["mean"] for row in dose["scales"] if row["scale"] == said["effect"]["scale"])
    )
    assert said["random_rows"][0]["mean"]["lift_kept"] < 0.5
    assert MEANS not in said["methods"]


def test_without_a_window_no_share_of_an_effect_is_said(tmp_path: Path, record: Path, loaded: LoadedModel) -> None:
    vector = of_vector(tmp_path, raising(loaded, "owl"))
    assert not measured(tmp_path, record, vector)["window"]
    sae = saved_sae(record, sae_of(loaded, rows()), tmp_path, layer=1)
    said = decomposed(tmp_path, record, sae, vector, {"kind": "file", "file": "x"})
    assert said["effect"]["window"] is False
    assert {each["lift_kept"] for each in said["methods"]["OMP"]} == {None}
    plot_decomposition(tmp_path / "decomposition.json", tmp_path / "vector-lion/plots/decomposition.png")


def test_an_sae_of_another_layer_is_refused(tmp_path: Path, record: Path, loaded: LoadedModel) -> None:
    vector = of_vector(tmp_path, raising(loaded, "owl"))
    sae = saved_sae(record, sae_of(loaded, rows()), tmp_path, layer=0)
    with pytest.raises(ValueError, match=r"is of layer 0, and .* of layer 1: decompose it in an SAE of its own layer"):
        decomposed(tmp_path, record, sae, vector, {"kind": "file", "file": "x"})


def test_features_that_fire_on_no_text_are_no_part_of_a_vector(loaded: LoadedModel) -> None:
    sae = sae_of(loaded, rows())
    sae.b_enc[7] = -1e9
    basis = Basis.of(sae, torch.randn(50, D, generator=torch.Generator().manual_seed(1)))
    assert 7 not in basis.numbers
    assert len(basis.numbers) == len(basis.rows) <= N - 1
    assert np.linalg.norm(basis.rows, axis=1) == pytest.approx(1)


def test_a_part_is_of_the_greatest_weights() -> None:
    made = Sparse(np.array([3, 1, 2]), np.array([5.0, -4.0, 1.0]))
    assert made.top(2).rows.tolist() == [3, 1]
