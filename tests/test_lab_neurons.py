"""Features that are neurons, tokens or neither are known as such, and every correlation is the one of all tokens at once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from planted import random_sae, saved_sae
from scipy import sparse

from undertone.lab import neuron_sums, neuron_table
from undertone.lab.firing import Firing, read_firing
from undertone.lab.neuron_sums import Best, best_neurons, grouped, read_neurons
from undertone.lab.neuron_table import SCHEMA, best_tokens, columns, compare_neurons, first, often
from undertone.lab.reading import Reader
from undertone.lm.hooks import decoder_layers
from undertone.lm.loading import LoadedModel, load
from undertone.lm.neurons import widths
from undertone.lm.points import HookPoint
from undertone.plots.feature_plots import plot_neurons
from undertone.runtime.files import read_json, write_parquet
from undertone.study.config.lab import Neurons

LAYERS = [0, 1]


@pytest.fixture(scope="module")
def contexts(loaded: LoadedModel) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randint(10, len(loaded.tokenizer), (160, 12), generator=generator).tolist()
    return [[2, *row[: 6 + k % 6], *([40] if k % 4 < 2 else [])] for k, row in enumerate(drawn)]


@pytest.fixture(scope="module")
def reader(record: Path, contexts: list[list[int]]) -> Reader:
    loaded = load(record)
    return Reader(loaded, random_sae(loaded), HookPoint(1), contexts, 1e9, 0, 0)


@pytest.fixture(scope="module")
def firing(reader: Reader) -> Firing:
    return read_firing(reader)


@pytest.fixture(scope="module")
def values(reader: Reader, firing: Firing) -> np.ndarray:
    """Every neuron on every token, in the order of the text."""
    parts = list(read_neurons(reader, firing, LAYERS))
    tokens = np.concatenate([tokens for tokens, _ in parts])
    assert sorted(tokens) == list(range(len(firing.token)))
    return torch.cat([values for _, values in parts]).numpy()[np.argsort(tokens)]


def with_acts(firing: Firing, *acts: np.ndarray) -> Firing:
    """The same text with these as the activations of features 0, 1, …"""
    return Firing(sparse.csr_matrix(np.stack(acts, 1)), firing.token, firing.position, firing.context)


def sizes(reader: Reader) -> list[int]:
    return widths(reader.loaded.model, LAYERS, reader.rows[0].ids)


def best_of(reader: Reader, firing: Firing, n: int = 0) -> Best:
    """What is found of all features, then of all where the text is moved `n` times."""
    every = np.arange(firing.acts.shape[1])
    return best_neurons(reader, firing, columns(firing, every, every, n, 0), sizes(reader), "test")


def test_neurons_are_those_of_each_token_in_its_context(reader: Reader, firing: Firing, values: np.ndarray) -> None:
    mlp = decoder_layers(reader.loaded.model)[1].mlp
    seen: list[torch.Tensor] = []
    with mlp.down_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0])):
        reader.loaded.model(torch.tensor([reader.rows[7].ids]))
    width = seen[0].shape[-1]
    mine = values[firing.context == 7][:, -width:]
    assert mine == pytest.approx(seen[0][0, 1:].detach().numpy(), abs=1e-5)


def test_a_feature_that_is_a_neuron_is_found_and_moved_text_has_it_no_more(
    reader: Reader, firing: Firing, values: np.ndarray
) -> None:
    width = sizes(reader)[0]
    best = best_of(reader, with_acts(firing, values[:, width + 17], -3 * values[:, 5] + 1), 19)
    assert (best.layer[0, 0], best.neuron[0, 0], best.r[0, 0]) == (1, 17, pytest.approx(1, abs=1e-5))
    assert (best.layer[1, 0], best.neuron[1, 0], best.r[1, 0]) == (0, 5, pytest.approx(-1, abs=1e-5))
    assert best.r.shape == (2 + 2 * 19, 3)
    assert np.abs(best.r[2:]).max() < 0.5
    assert np.median(np.abs(best.r[2:, 0])) < 0.1


def test_correlations_are_those_of_all_tokens_at_once(reader: Reader, firing: Firing, values: np.ndarray) -> None:
    some = with_acts(firing, *firing.acts[:, firing.alive[:4]].toarray().T)
    every = np.arange(4)
    plan = columns(some, every, every, 2, 0)
    best = best_neurons(reader, some, plan, sizes(reader), "test")
    half = firing.context % 2
    acts, width = some.acts.toarray(), sizes(reader)[0]
    for j, (feature, meeting) in enumerate(zip(plan.feature, plan.meeting, strict=True)):
        met = plan.meets[meeting]
        r = []
        for k in (0, 1):
            at = np.flatnonzero((half == k) & (met >= 0))
            r.append(np.nan_to_num(np.corrcoef(acts[met[at], feature], values[at].T)[0, 1:]))
        order = np.argsort(-np.abs(r[0]))[:3]
        assert best.chosen[j] == pytest.approx(r[0][order], abs=1e-4)
        assert best.r[j] == pytest.approx(r[1][width * best.layer[j] + best.neuron[j]], abs=1e-4)


def test_layers_that_do_not_fit_are_read_in_turn(reader: Reader, firing: Firing, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = best_of(reader, firing)
    monkeypatch.setattr(neuron_sums, "NUMBERS", 1)
    turns: list[Any] = []
    monkeypatch.setattr(neuron_sums, "read_neurons", lambda *given: turns.append(given[2]) or read_neurons(*given))
    parts = best_of(reader, firing)
    assert turns == [[0], [1]]
    assert np.array_equal(parts.neuron, whole.neuron)
    assert parts.r == pytest.approx(whole.r, abs=1e-9)
    assert list(grouped([3, 3, 3, 9, 3], 7)) == [[0, 1], [2], [3], [4]]


def test_chance_of_a_correlation_keeps_its_level(reader: Reader, firing: Firing) -> None:
    """Features that fire in some contexts only, and know nothing of the text."""
    rng = np.random.default_rng(0)
    on = (rng.random((firing.context.max() + 1, 60)) < 0.3)[firing.context] & (rng.random((len(firing.token), 60)) < 0.5)
    best = best_of(reader, with_acts(firing, *on.T.astype(float)), 19)
    seen, chance = np.abs(best.r[:60, 0]), np.abs(best.r[60:, 0])
    assert (seen > np.quantile(chance, 0.95)).mean() <= 0.15
    assert np.abs(best.chosen[:60, 0]).mean() > 3 * seen.mean()  # what is chosen is great where it is chosen


def test_a_feature_that_is_a_token_is_known_as_such(firing: Firing) -> None:
    noise = (np.random.default_rng(0).random(len(firing.token)) < 0.2).astype(float)
    token, r = best_tokens(with_acts(firing, 2.5 * (firing.token == 40), noise), np.arange(2))
    assert (token[0], r[0]) == (40, pytest.approx(1))
    assert abs(r[1]) < 0.2
    on = np.where(firing.token == 40, 1.0, noise)
    token, r = best_tokens(with_acts(firing, on), np.arange(1))
    half = firing.context % 2 == 1
    assert (token[0], r[0]) == (40, pytest.approx(np.corrcoef(on[half], firing.token[half] == 40)[0, 1]))


def test_features_count_that_fire_often_enough_on_both_halves() -> None:
    context = np.repeat(np.arange(4), 10)
    acts = np.zeros((40, 3))
    acts[:, 0], acts[context % 2 == 0, 1], acts[::8, 2] = 1, 1, 1
    given = Firing(sparse.csr_matrix(acts), context, context, context)
    assert often(given, 2).tolist() == [0, 2]
    assert often(given, 5).tolist() == [0]


def test_as_many_contexts_are_read_as_hold_the_tokens() -> None:
    contexts = [[1] * 4, [2] * 3, [3] * 5]
    assert [len(first(contexts, n)) for n in (1, 4, 5, 7, 8, 99)] == [1, 1, 2, 2, 3, 3]


@pytest.fixture
def made(record: Path, contexts: list[list[int]], tmp_path: Path) -> Iterator[Any]:
    def make(**settings: Any) -> dict[str, Any]:
        text, table, summary = (tmp_path / name for name in ("text.parquet", "neurons.parquet", "neurons.json"))
        write_parquet(text, pl.DataFrame({"row": range(len(contexts)), "ids": contexts}), {})
        sae = saved_sae(record, random_sae(load(record)), tmp_path, 1)
        said = compare_neurons(record, sae, text, table, summary, Neurons(**settings), 1e9, {"of": "it"})
        plot_neurons(table, summary, tmp_path / "plot.png")
        assert (tmp_path / "plot.png").stat().st_size > 8_000
        return {"table": pl.read_parquet(table), "summary": read_json(summary), "said": said}

    yield make


def test_the_table_and_its_summary_say_the_same(made: Any, firing: Firing) -> None:
    lab = made(min_count=5, shifted=4, shifts=3)
    table, summary = lab["table"], lab["summary"]
    assert table["feature"].to_list() == often(firing, 5).tolist()
    assert summary["features"] + summary["rare"] + summary["dead"] == summary["d_sae"] == 64
    r = np.abs([row[0]["r"] for row in table["neurons"]])
    assert [row[0]["layer"] in (0, 1) for row in table["neurons"]] == [True] * len(table)
    assert summary["neuron"]["n"] == sum(summary["neuron"]["histogram"]) == len(table)
    assert summary["shifted"]["n"] == 3 * 4
    assert summary["neuron"]["weak"] == pytest.approx((r <= 0.3).mean())
    assert summary["above_token"] == (r > np.abs(table["token_r"].to_numpy())).sum()
    assert summary["above_rerandomized"] == (r > np.abs(table["rerandomized_r"].to_numpy())).sum()
    assert summary["above"] == (r > summary["null95"]).sum()
    assert summary["reason"] is None
    assert lab["said"].startswith(f"{len(table)} features and ")


def test_what_cannot_be_read_is_said(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rare = made(min_count=10_000)
    assert rare["table"].schema == SCHEMA
    assert rare["summary"]["reason"] == "no feature fires on 10000 tokens of each half"

    def refuse(*_: Any) -> None:
        raise ValueError("BloomBlock has no part named mlp with a linear map: its neurons are not known")

    monkeypatch.setattr(neuron_table, "widths", refuse)
    other = made()
    assert other["table"].is_empty()
    assert "BloomBlock has no part named mlp" in other["summary"]["reason"]
    assert "BloomBlock" in other["said"]
