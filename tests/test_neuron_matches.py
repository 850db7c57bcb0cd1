"""Neurons that are equal up to order and sign match at 1, unrelated ones as shifted text, and tokens not given the token."""

import copy
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from planted import random_sae
from scipy.sparse import csr_array

from undertone.lm.hooks import decoder_layers
from undertone.lm.loading import LoadedModel
from undertone.pairs import neuron_matches as module
from undertone.pairs.activity import Side
from undertone.pairs.aligned import Aligned
from undertone.pairs.correlations import Activity, correlations
from undertone.pairs.neuron_matches import Layer, matched, neuron_matches, read
from undertone.study.config.pair_settings import Matches

SETTINGS = Matches(shifts=5, shuffles=39, bootstraps=20)
CONTEXTS, LENGTH, WORDS = 300, 12, 40
ROW = np.repeat(np.arange(CONTEXTS), LENGTH)


@pytest.fixture(scope="module")
def aligned(loaded: LoadedModel) -> Aligned:
    """Contexts of random tokens, all read by both sides but the first of each."""
    rng = np.random.default_rng(0)
    contexts = rng.integers(10, len(loaded.tokenizer), (CONTEXTS, LENGTH + 1))
    position = np.tile(np.arange(1, LENGTH + 1), CONTEXTS)
    every = [row.tolist() for row in contexts]
    return Aligned((every, every), ROW, (position, position), contexts[:, 1:].ravel(), 1.0)


def noise(seed: int, n: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((len(ROW), n)).astype(np.float32)


def text_of(word: np.ndarray) -> Aligned:
    return Aligned(([], []), ROW, (ROW, ROW), word, 1.0)


def layer_of(values: np.ndarray, most: int = 99) -> Layer:
    return Layer.of(values.copy(), ROW, most, 0, "cpu")


def side(loaded: LoadedModel, layer: int = 1) -> Side:
    return Side(loaded, random_sae(loaded), layer, np.zeros((1, 1)))


def turned(loaded: LoadedModel, seed: int) -> tuple[LoadedModel, np.ndarray]:
    """The same function with the neurons of layer 1 in another order, some of them with the other sign."""
    other = copy.deepcopy(loaded)
    mlp = decoder_layers(other.model)[1].mlp
    rng = np.random.default_rng(seed)
    order = torch.from_numpy(rng.permutation(mlp.down_proj.weight.shape[1]))
    sign = torch.from_numpy(rng.choice([-1.0, 1.0], len(order))).float()
    with torch.no_grad():
        mlp.gate_proj.weight.copy_(mlp.gate_proj.weight[order].clone())
        mlp.up_proj.weight.copy_(mlp.up_proj.weight[order].clone() * sign[:, None])
        mlp.down_proj.weight.copy_(mlp.down_proj.weight[:, order].clone() * sign)
    return other, np.argsort(order.numpy())


def test_neurons_in_another_order_and_with_other_signs_are_matched_at_1(loaded: LoadedModel, aligned: Aligned) -> None:
    other, place = turned(loaded, 1)
    of = neuron_matches(side(loaded), side(other), aligned, SETTINGS)
    assert of["reason"] is None
    assert of["a"] == of["b"] == {"neurons": len(place), "of": len(place)}
    assert {*of["headline"]} == {"best_a", "best_b", "mutual", "one"}
    for way in of["headline"].values():
        assert way["r"]["median"] == pytest.approx(1, abs=1e-4)
        assert way["r_token"]["median"] == pytest.approx(1, abs=1e-4)
        assert way["above_chance"] == way["above_chance_given_token"] == 1
    a, b = (Layer.of(read(each, 1, aligned, 0), ROW, 999, 0, "cpu") for each in (loaded, other))
    table, _ = matched(a, b, aligned, SETTINGS)
    one = table.filter(way="one")
    assert one["b"].to_list() == place[one["a"].to_numpy()].tolist()
    assert {*one["sign"]} == {-1, 1}


def test_of_many_some_are_matched_and_any_may_be_their_partner(loaded: LoadedModel, aligned: Aligned) -> None:
    other, place = turned(loaded, 2)
    of = neuron_matches(side(loaded), side(other), aligned, SETTINGS.model_copy(update={"neurons": 5}))
    assert of["a"] == {"neurons": 5, "of": len(place)}
    assert {*of["headline"]} == {"best_a", "best_b"}
    for way in of["headline"].values():
        assert way["n"] == 5
        assert way["r"]["median"] == pytest.approx(1, abs=1e-4)


def test_unrelated_neurons_match_as_in_shifted_text() -> None:
    word = np.random.default_rng(1).integers(0, WORDS, len(ROW))
    p = []
    for seed in range(6):
        table, null = matched(layer_of(noise(seed)), layer_of(noise(100 + seed)), text_of(word), SETTINGS)
        assert abs(table["r"].median() - null["r"].median()) < 0.02
        # Of the other half the sign that was chosen holds no more often than not.
        assert abs(table["r"].mean()) < 0.01
        p += table.filter(way="best_a")["p"].to_list()
    assert 0.01 < np.mean(np.array(p) <= 0.05) < 0.12


def test_what_is_written_are_the_correlations_of_whole_arrays() -> None:
    word = np.random.default_rng(2).integers(0, WORDS, len(ROW))
    a, b = noise(1), 0.3 * noise(1)[:, ::-1] + noise(2) + np.random.default_rng(3).normal(size=(WORDS, 30))[word]
    table, _ = matched(layer_of(a), layer_of(b.astype(np.float32)), text_of(word), SETTINGS)
    first, second = (
        correlations(*(Activity.of(csr_array(x[own]), word[own]) for x in (a, b))) for own in (ROW % 2 == 0, ROW % 2 == 1)
    )
    i, j = table["a"].to_numpy(), table["b"].to_numpy()
    sign = np.sign(first[0][i, j])
    np.testing.assert_allclose(table["r"], second[0][i, j] * sign, atol=1e-5)
    np.testing.assert_allclose(table["r_token"], second[1][i, j] * sign, atol=1e-5)
    own = table.filter(way="best_a")
    np.testing.assert_array_equal(own["b"], np.abs(first[0]).argmax(1))


def test_neurons_that_are_tokens_match_and_not_given_the_token() -> None:
    rng = np.random.default_rng(4)
    word = rng.integers(0, WORDS, len(ROW))
    weights = rng.standard_normal((WORDS, 30))
    a, b = (weights[word] + 0.1 * noise(seed) for seed in (5, 6))
    table, _ = matched(layer_of(a.astype(np.float32)), layer_of(b.astype(np.float32)), text_of(word), SETTINGS)
    one = table.filter(way="one")
    assert one["r"].min() > 0.9
    assert abs(one["r_token"].median()) < 0.05
    assert (one["p_token"] <= 0.05).mean() < 0.25


def test_a_neuron_that_never_changes_has_no_partner() -> None:
    still = noise(7)
    still[:, 3] = 2.5
    table, _ = matched(layer_of(still), layer_of(noise(7)), text_of(ROW % WORDS), SETTINGS)
    assert 3 not in table["a"].to_list()
    assert table.filter(way="one")["r"].min() == pytest.approx(1, abs=1e-4)
    # Constant on the half that scores alone, it has a partner and no correlation.
    half = noise(7)
    half[ROW % 2 == 1, 3] = 0
    table, _ = matched(layer_of(half), layer_of(noise(7)), text_of(ROW % WORDS), SETTINGS)
    row = table.filter(pl.col("a") == 3, way="one").row(0, named=True)
    assert (row["r"], row["r_token"], row["p"], row["p_token"]) == (None, None, 1, 1)


def test_neurons_are_those_of_each_token_in_its_context(loaded: LoadedModel, aligned: Aligned) -> None:
    seen: list[torch.Tensor] = []
    mlp = decoder_layers(loaded.model)[1].mlp
    with mlp.down_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0])):
        loaded.model(torch.tensor([aligned.contexts[0][70]]))
    values = read(loaded, 1, aligned, 0)
    np.testing.assert_allclose(values[ROW == 70], seen[0][0, 1:].detach().numpy(), atol=1e-5)


def test_of_wide_layers_fewer_contexts_are_read(loaded: LoadedModel, aligned: Aligned, monkeypatch: pytest.MonkeyPatch) -> None:
    other, place = turned(loaded, 3)
    monkeypatch.setattr(module, "NUMBERS", 2 * len(place) * (100 * LENGTH + 5))
    of = neuron_matches(side(loaded), side(other), aligned, SETTINGS)
    assert of["tokens"] == 100 * LENGTH
    assert of["headline"]["one"]["r"]["median"] == pytest.approx(1, abs=1e-4)


def test_what_has_no_neurons_of_its_own_says_so(loaded: LoadedModel, aligned: Aligned, monkeypatch: pytest.MonkeyPatch) -> None:
    one: Any = neuron_matches(side(loaded), side(loaded), aligned, SETTINGS)
    assert (one["headline"], one["reason"]) == (None, module.SAME)
    assert neuron_matches(side(loaded), side(loaded, 0), aligned, SETTINGS)["reason"] is None

    def refuse(*_: Any) -> None:
        raise ValueError("BloomBlock has no part named mlp")

    monkeypatch.setattr(module, "widths", refuse)
    other, _ = turned(loaded, 4)
    without = neuron_matches(side(loaded), side(other), aligned, SETTINGS)
    assert without == {"reason": "BloomBlock has no part named mlp", "headline": None}
