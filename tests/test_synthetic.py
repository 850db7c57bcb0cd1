"""SAEs on known features: what is recovered is what was planted, signs count, and "shared" is judged by the truth."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from scipy.sparse import csr_array

from undertone.pairs.best_matches import Halves
from undertone.pairs.calibration import calibration, judged, same_feature
from undertone.pairs.recovery import (
    Dictionary,
    Known,
    by_rate,
    counts,
    detection,
    identity,
    joint,
    one_to_one,
    permuted,
    read,
    same_firing,
    summed,
)
from undertone.pairs.synthetic import make_synthetic
from undertone.pairs.truth import Truth, rates
from undertone.plots.synthetic_plot import plot_synthetic
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json
from undertone.study.config.pair_settings import Synthetic
from undertone.study.config.saes import Sae
from undertone.study.study import load

SMALL = {"features": [24], "active": 2, "d_sae": 32, "d_model": 24, "tokens": 300_000, "samples": 4_000, "permutations": 9}
TRUTH = Synthetic.model_validate(SMALL)


def known(n: int = 24, samples: int = 4_000) -> tuple[Known, torch.Tensor]:
    truth = Truth.drawn(n, TRUTH)
    x, fired = truth.sample(samples, 5)
    return Known(truth.directions, fired), x


def test_features_fire_as_often_as_they_should_and_groups_together() -> None:
    settings = TRUTH.model_copy(update={"correlation": 0.6, "group": 4})
    truth = Truth.drawn(24, settings)
    _, fired = truth.sample(40_000, 1)
    p = rates(24, settings)
    assert p.sum() == pytest.approx(settings.active)
    assert (np.diff(p) <= 0).all()
    fires = (fired.toarray() > 0).astype(float)
    np.testing.assert_allclose(fires.mean(0), p, atol=0.01)
    loads = truth.generator.low_rank_correlation[0].numpy()  # type: ignore[index]
    together = (loads @ loads.T) > 0.1
    off = ~np.eye(24, dtype=bool)
    r = np.corrcoef(fires.T)
    assert r[together & off].min() > 0.05
    assert np.abs(r[~together]).max() < 0.03
    # Without a correlation none fire together.
    alone, _ = Truth.drawn(24, settings.model_copy(update={"correlation": 0.0})), None
    r = np.corrcoef((alone.sample(40_000, 1)[1].toarray() > 0).astype(float).T)
    assert np.abs(r[off]).max() < 0.03


def test_samples_are_sums_of_what_fires_and_depend_on_the_seed_alone() -> None:
    truth = Truth.drawn(24, TRUTH)
    x, fired = truth.sample(5_000, 3)
    np.testing.assert_allclose(x.numpy(), fired.toarray() @ truth.directions, atol=1e-5)
    torch.manual_seed(99)
    again = Truth.drawn(24, TRUTH).sample(5_000, 3)[0]
    assert torch.equal(x, again)
    assert not torch.equal(x, truth.sample(5_000, 4)[0])


def test_the_truth_itself_is_recovered_whole() -> None:
    true, _ = known()
    order = np.random.default_rng(0).permutation(24)
    dictionary = Dictionary(true.directions[order], true.fires[:, order])
    of = read(true, dictionary)
    assert (order[of["latent"]] == np.arange(24)).all()
    assert summed(of, 0.9) == pytest.approx({"mcc": 1, "recovered": 1, "precision": 1, "recall": 1})
    null = permuted(true, dictionary, 0.9, 9, 0)
    assert null["recovered"]["q95"] < 0.1
    assert null["mcc"]["mean"] < 0.6
    assert null["precision"]["q95"] < 0.5


def test_a_latent_of_the_other_sign_has_found_nothing() -> None:
    true, _ = known()
    flipped = read(true, Dictionary(-true.directions, true.fires))
    assert summed(flipped, 0.9)["recovered"] == 0
    assert summed(flipped, 0.9)["mcc"] < 0.6
    half = np.where(np.arange(24) < 12, 1.0, -1.0)[:, None] * true.directions
    assert summed(read(true, Dictionary(half, true.fires)), 0.9)["recovered"] == 0.5


def test_precision_and_recall_are_those_of_a_table_by_hand() -> None:
    truth = csr_array(np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1]], dtype=float).T)
    fires = csr_array(np.array([[2, 2, 0, 2, 0, 0], [0, 0, 0, 0, 0, 0]], dtype=float).T)
    table = (joint(truth, fires), counts(truth), counts(fires))
    precision, recall = detection(*table, np.array([0, 1]))
    np.testing.assert_allclose(precision, [2 / 3, 0])
    np.testing.assert_allclose(recall, [2 / 3, 0])
    # One that is left over has no latent.
    precision, recall = detection(*table, np.array([-1, 0]))
    np.testing.assert_allclose(precision, [0, 0])
    assert (one_to_one(np.array([[0.1], [0.9]])) == [-1, 0]).all()


def test_bins_have_equally_many_features_and_their_shares() -> None:
    rate = np.arange(80) / 100
    bins = by_rate(rate, rate >= 0.4)
    assert [each["n"] for each in bins] == [10] * 8
    assert [each["share"] for each in bins] == [0] * 4 + [1] * 4
    assert bins[0]["ci95"][1] < 0.4


def test_which_feature_a_latent_is_by_direction_and_by_firing() -> None:
    true, _ = known()
    mixed = true.directions[0] + true.directions[1]
    rows = np.stack([true.directions[3], -true.directions[4], mixed / np.linalg.norm(mixed)])
    assert identity(true.directions @ rows.T, 0.9).tolist() == [3, -1, -1]
    noise = csr_array((np.random.default_rng(0).random((4_000, 1)) < 0.1).astype(float))
    fires = csr_array(np.hstack([true.fires[:, [3]].toarray(), noise.toarray()]))
    assert same_firing(true.fires, fires, 0.7).tolist() == [3, -1]
    same = same_feature(np.array([3, -1, 2]), np.array([2, 3, -1]))
    assert np.argwhere(same).tolist() == [[0, 1], [2, 0]]


def test_a_score_that_knows_the_truth_has_an_auroc_of_one_and_chance_of_a_half() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(400) < 200
    perfect = judged(np.where(truth, 0.8, 0.2) + 0.01 * rng.random(400), truth, 0.7)
    assert perfect["auroc"] == 1
    assert perfect["at"] == {"threshold": 0.7, "share": 0.5, "precision": 1, "recall": 1, "false": 0}
    assert perfect["reaches"]["recall"] == 1
    assert perfect["reaches"]["precision"] >= 0.95
    guess = judged(rng.random(400), truth, 0.7)
    assert guess["auroc"] == pytest.approx(0.5, abs=0.08)
    assert guess["curve"][-1] == {
        "threshold": guess["curve"][-1]["threshold"],
        "share": 1,
        "precision": 0.5,
        "recall": 1,
        "false": 1,
    }
    assert judged(rng.random(3), np.ones(3, dtype=bool), 0.7)["auroc"] is None


def test_pairs_of_two_dictionaries_are_judged_by_the_truth() -> None:
    true, _ = known(samples=8_000)
    rng = np.random.default_rng(1)
    # Half of the latents of a are true features in another order; the others are noise that fires for itself.
    noise = csr_array((rng.random((8_000, 12)) < 0.05).astype(float))
    other = csr_array((rng.random((8_000, 12)) < 0.05).astype(float))
    order = rng.permutation(12)
    a = csr_array(np.hstack([true.fires[:, :12].toarray(), noise.toarray()]))
    b = csr_array(np.hstack([true.fires[:, order].toarray(), other.toarray()]))
    same = same_feature(np.r_[np.arange(12), np.full(12, -1)], np.r_[order, np.full(12, -1)])
    halves = Halves.of(a, b, np.arange(8_000), np.zeros(8_000, dtype=np.int64))
    body = calibration(halves, rng.normal(size=(24, 24)) * 0.1, {"known": same}, 0.7, 3, 0)
    result = body["known"]
    assert (body["pairs"], result["same"]) == (24, 12)
    assert result["r"]["auroc"] == 1
    assert result["r"]["at"]["precision"] == result["r"]["at"]["recall"] == 1
    assert body["by_chance"] < 0.1
    assert result["cosine"]["at"]["share"] == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("synthetic")
    sae = Sae(batch_size=256, lr=3e-3, dead_steps=100)
    make_synthetic(home / "recovery.parquet", home / "recovery.json", TRUTH, sae, {}, home / "scratch")
    plot_synthetic(home / "recovery.parquet", home / "recovery.json", home / "plot.png", {})
    return home


def test_an_sae_recovers_features_that_are_nearly_orthogonal_and_an_untrained_one_none(made: Path) -> None:
    body, table = read_json(made / "recovery.json"), pl.read_parquet(made / "recovery.parquet")
    truth = body["truths"]["24"]
    assert truth["l0"] == pytest.approx(2, abs=0.1)
    for seed in truth["seeds"]:
        assert seed["recovered"] > 0.7
        assert seed["mcc"] > seed["untrained"]["mcc"] + 0.3
        assert seed["mcc"] > seed["permuted"]["mcc"]["q95"] + 0.2
        assert seed["untrained"]["recovered"] < 0.1
        assert seed["l0"] <= 2
    assert [seed["seed"] for seed in truth["seeds"]] == [0, 1]
    assert len(table) == 48
    own = table.filter(seed=0)
    assert (own["cosine"] >= 0.9).mean() == truth["seeds"][0]["recovered"]
    assert not (made / "scratch").exists()
    # Two seeds that find most features match on most of them.
    assert truth["matching"]["firing"]["same"] >= 12
    assert truth["matching"]["firing"]["r"]["at"]["recall"] > 0.8


def test_the_figure_shows_chance(made: Path) -> None:
    texts = Image.open(made / "plot.png").info["Description"]
    assert "before training" in texts
    assert "share of all pairs: chance" in texts


def test_a_killed_job_goes_on_with_the_saes_that_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from undertone.pairs import synthetic

    few = TRUTH.model_copy(update={"tokens": 4_000})
    outputs = (tmp_path / "a.parquet", tmp_path / "a.json", few, Sae(batch_size=256), {}, tmp_path / "scratch")
    trainings, real = [], synthetic.fitted

    def killed(*args: object) -> object:
        trainings.append(args)
        if len(trainings) == 2:
            raise KeyboardInterrupt
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(synthetic, "fitted", killed)
    with pytest.raises(KeyboardInterrupt):
        make_synthetic(*outputs)
    assert not (tmp_path / "a.json").exists()
    make_synthetic(*outputs)
    assert len(trainings) == 3
    whole = [tmp_path / "b.parquet", tmp_path / "b.json", *outputs[2:5], tmp_path / "other"]
    make_synthetic(*whole)  # type: ignore[arg-type]
    assert pl.read_parquet(tmp_path / "a.parquet").equals(pl.read_parquet(tmp_path / "b.parquet"))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"features": [20]}, "of 20 features, firing at most 0.2 of the time, no 8 do at once; expected at least 40 features"),
        ({"d_sae": 4}, "active 8 is greater than d_sae 4"),
        ({"features": []}, "synthetic.features"),
        ({"correlation": 1}, "synthetic.correlation"),
    ],
)
def test_what_cannot_be_drawn_is_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load({"synthetic": settings})
