"""Features, neurons and concepts: detectors that are known, and those that only seem to be some."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image
from planted import saved_sae
from scipy.sparse import csc_matrix, csr_matrix
from sklearn.metrics import f1_score, roc_auc_score
from test_lab_features import PLANTED, planted

from undertone.lab.firings import FiringSums, first_contexts
from undertone.lab.matching import (
    Active,
    bands,
    best_threshold,
    dense_auroc,
    f1_of,
    greatest_f1,
    of_sparse,
    scored,
    sparse_auroc,
)
from undertone.lab.reading import Reader
from undertone.lab.specificity import make_specificity, paired
from undertone.lab.specificity_plot import plot_specificity
from undertone.lm.loading import LoadedModel, load
from undertone.lm.points import HookPoint
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json, write_json, write_parquet
from undertone.study.config.lab import Specificity

SETTINGS = Specificity(min_count=4, shifts=20, bands=4)


def sparse_table(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Activations of five units with many ties and zeros on 400 tokens, and three concepts."""
    rng = np.random.default_rng(seed)
    acts = rng.integers(1, 6, (400, 5)) * (rng.random((400, 5)) < 0.3)
    held = np.stack([acts[:, 0] + rng.normal(0, 2, 400) > 3, rng.random(400) < 0.1, acts[:, 1] > 2], axis=1)
    return acts.astype(np.float32), held


def test_auroc_is_that_of_scikit_learn_with_ties_and_zeros() -> None:
    acts, held = sparse_table()
    expected = [[roc_auc_score(held[:, k], acts[:, j]) for k in range(3)] for j in range(5)]
    np.testing.assert_allclose(sparse_auroc(csc_matrix(acts), held), expected, atol=1e-12)
    np.testing.assert_allclose(dense_auroc(acts - 2.5, held), expected, atol=1e-12)
    assert np.isnan(sparse_auroc(csc_matrix(acts), np.zeros((400, 1), dtype=bool))).all()


def test_the_best_threshold_is_that_of_all_thresholds() -> None:
    acts, held = sparse_table()
    for j in range(5):
        active = of_sparse(csc_matrix(acts), j)
        ours = greatest_f1(active, csr_matrix(held), held.sum(0))
        for k in range(3):
            every = {x: f1_score(held[:, k], acts[:, j] >= x, zero_division=0.0) for x in np.unique(active.value)}
            threshold = best_threshold(active, held[:, k])
            assert every[threshold] == pytest.approx(max(every.values())) == ours[k]
            assert f1_of(active.at_least(threshold), held[:, k], int(held[:, k].sum())) == pytest.approx(ours[k])
    assert best_threshold(Active(np.array([], dtype=int), np.array([])), held[:, 0]) == np.inf


def test_a_unit_of_two_concepts_is_precise_only_where_it_is_strong() -> None:
    # On 40 tokens of the concept it is 2, on as many others .5, on 120 it is silent.
    held = np.repeat([True, False, False], [40, 40, 120])
    active = Active(np.arange(80), np.repeat([2.0, 0.5], 40))
    own = scored((active, active), (held, held), 4, [50, 90, 130])
    assert own["bands"] == [0.0, None, None, 1.0]
    assert own["bands_n"] == [40, 0, 0, 40]
    assert (own["precision"], own["recall"], own["threshold"], own["f1"], own["base"]) == (0.5, 1.0, 2.0, 1.0, 0.2)
    # Shifted, the tokens above the threshold hold it as often as they then happen to.
    assert own["p"] == 1 / 4
    assert own["f1_null"] < 0.2


def test_a_threshold_is_chosen_on_one_half_and_scored_on_the_other() -> None:
    held = np.repeat([True, False], [10, 90])
    chosen, other = Active(np.arange(20), np.repeat([2.0, 1.0], 10)), Active(np.arange(20), np.repeat([1.0, 2.0], 10))
    own = scored((chosen, other), (held, held), 2, [50])
    assert own["threshold"] == 2
    assert own["f1"] == 0


def test_a_unit_that_is_silent_has_no_precision() -> None:
    silent = Active(np.array([], dtype=int), np.array([]))
    own = scored((silent, silent), (np.array([True, False]), np.array([True, False])), 3, [1])
    assert (own["precision"], own["threshold"], own["f1"], own["recall"]) == (None, None, 0.0, 0.0)
    assert bands(silent.value, np.array([], dtype=bool), 3) == ([None] * 3, [0] * 3)


def test_firings_are_the_readers_activations_by_token(record: Path, contexts: list[list[int]]) -> None:
    loaded = load(record)
    reader = Reader(loaded, planted(loaded, 40), HookPoint(0), contexts, 1e9, 0, 0)
    sums = FiringSums(reader)
    for read in reader.batches():
        sums.add(read)
    firings, ids = sums.firings(), [token for row in contexts for token in row]
    assert sorted(firings.place) == [at for at, token in enumerate(ids) if token != 2]
    first = np.cumsum([0, *map(len, contexts)])
    for k in (0, 7, 149):
        own = firings.row == k
        expected = reader.read([k]).acts[0].numpy()[firings.place[own] - first[k]]
        np.testing.assert_allclose(firings.acts.toarray()[own], expected, rtol=1e-5, atol=1e-6)
    assert set(firings.half) == {0, 1}
    assert len(first_contexts(contexts, len(contexts[0]) + 1)) == 2


@pytest.fixture(scope="module")
def made(plain: Path, contexts: list[list[int]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The reading of an SAE whose feature 5 fires on one token alone, which is a concept beside others."""
    home = tmp_path_factory.mktemp("specificity")
    loaded = load(plain)
    return {**written(plain, loaded, contexts, home, entries(loaded)), "home": home}


def entries(loaded: LoadedModel) -> dict[str, Any]:
    texts = [loaded.tokenizer.decode([token]).strip() for token in (40, 50, 60)]
    return {
        "planted": {"tokens": texts[:1]},
        "others": {"tokens": texts[1:]},
        "absent": {"regex": "xyzzy"},
        "e": {"regex": "e"},
    }


def filled(at: int, token: int) -> int:
    return 40 if at % 9 == 0 else 50 if at % 7 == 0 else token


def written(
    plain: Path, loaded: LoadedModel, contexts: list[list[int]], home: Path, concepts: dict[str, Any]
) -> dict[str, Any]:
    # Every token stands often enough in each half.
    more = [[2, *[filled(k + at, token) for at, token in enumerate(row[1:])]] for k, row in enumerate(contexts)]
    (home / "concepts.yaml").write_text(yaml.safe_dump(concepts))
    write_parquet(home / "text.parquet", pl.DataFrame({"row": range(len(more)), "ids": more}), {})
    files = [home / name for name in ("text.parquet", "concepts.yaml", "units.parquet", "specificity.json")]
    make_specificity(plain, saved_sae(plain, planted(loaded, 40), home), *files, SETTINGS, 1e9, {"of": "it"})
    return {"units": pl.read_parquet(files[2]), "result": read_json(files[3])}


def test_a_planted_detector_is_known_and_no_other_is_as_good(made: dict[str, Any]) -> None:
    own = made["units"].filter(kind="feature", unit=PLANTED).row(0, named=True)
    assert own["concept"] == "planted"
    # Another token has the same text but for white space.
    assert own["precision"] == 1
    assert min(own["auroc"], own["f1"], own["recall"]) > 0.97
    assert own["p"] == pytest.approx(1 / 21)
    assert own["f1_null"] < 0.4
    concept = made["result"]["concepts"]["planted"]
    assert (concept["feature"]["unit"], concept["feature"]["best_auroc"]) == (PLANTED, own["auroc"])
    # The embedding itself says it, so that a probe can.
    assert concept["probe"]["auroc"] == pytest.approx(1, abs=1e-2)
    assert made["result"]["left_out"] == {"absent": 0}
    assert sum(made["result"]["halves"]) == made["result"]["tokens"]


def test_features_that_say_nothing_are_not_called_specific(made: dict[str, Any]) -> None:
    features = made["units"].filter(kind="feature")
    assert 3 not in features["unit"].to_list()  # which never fires
    assert features.filter(concept="others")["auroc"].max() < 1 or features.filter(concept="others").is_empty()
    assert made["result"]["features"]["n"] == len(features)
    assert made["result"]["features"]["specific"] == (features["p"] <= 0.05).sum()


def test_neurons_are_scored_with_the_better_sign(made: dict[str, Any], plain: Path) -> None:
    neurons = made["units"].filter(kind="neuron")
    assert len(neurons) == load(plain).model.config.intermediate_size
    assert set(neurons["sign"]) == {-1, 1}
    assert neurons["auroc"].median() > 0.5
    assert made["result"]["paired"]["n"] == 3
    best = max(neurons.iter_rows(named=True), key=lambda row: (row["concept"] == "planted") * row["f1"])
    assert made["result"]["concepts"]["planted"]["neuron"]["f1"] >= 0.5 * best["f1"]


def test_the_figure_says_what_it_shows(made: dict[str, Any]) -> None:
    plot_specificity(made["home"] / "specificity.json", made["home"] / "plot.png")
    texts = Image.open(made["home"] / "plot.png").info["Description"]
    assert "of 3" in texts
    assert "features, median and quartiles" in texts
    result = {**made["result"], "neurons": None, "paired": None}
    result.pop("neurons")
    result["concepts"] = {name: {k: v for k, v in each.items() if k != "neuron"} for name, each in result["concepts"].items()}
    without = {key: value for key, value in result.items() if key not in ("stamp", "versions", "checksum")}
    write_json(made["home"] / "without.json", without, {})
    plot_specificity(made["home"] / "without.json", made["home"] / "without.png")
    assert "no neurons" in Image.open(made["home"] / "without.png").info["Description"].replace("\n", " ")


def test_without_a_concept_in_the_text_there_is_nothing_to_compare(
    plain: Path, contexts: list[list[int]], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="none of the 1 concepts stands on 4 tokens of each half"):
        written(plain, load(plain), contexts, tmp_path, {"absent": {"regex": "xyzzy"}})


def test_pairs_are_tested_by_signed_ranks() -> None:
    def pair(feature: float, neuron: float) -> dict[str, Any]:
        return {"feature": {"f1": feature, "best_auroc": feature}, "neuron": {"f1": neuron, "best_auroc": neuron}}

    many = paired({str(k): pair(0.5 + k / 100, 0.4) for k in range(10)})
    assert many["f1"]["better"] == 10
    assert many["f1"]["p"] == pytest.approx(2 / 2**10)
    assert paired({"a": pair(0.5, 0.5)})["f1"]["p"] is None
    assert json.dumps(many)
