"""Scaling: exponents of a known law come back, budgets are spent best, runs are whole, resumable and beside controls."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from undertone.lab import width_runs
from undertone.lab.power_law import Law, best_spent, fitted, forecast, product, with_intervals
from undertone.lab.scaling import fit, make_scaling
from undertone.lab.scaling_plot import plot_scaling
from undertone.lab.scaling_runs import make_scaling_runs
from undertone.lab.text_scaling_runs import make_text_scaling_runs
from undertone.lab.training_cost import flops
from undertone.lab.width_runs import Run, gaussian, in_order, of_width
from undertone.lm.chat import prompt_ids
from undertone.lm.loading import LoadedModel
from undertone.lm.loading import load as load_model
from undertone.models.model import corpus_of
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json, write_parquet
from undertone.saes.sae import corpus_rows
from undertone.saes.trainer import shuffled
from undertone.study.config.models import Model
from undertone.study.config.saes import Sae
from undertone.study.study import load

KNOWN = Law(E=0.02, A=2.5, a=0.6, B=60.0, b=0.5)
WIDTHS, TOKENS = (128, 256, 512, 1024, 2048), (125_000, 250_000, 500_000, 1_000_000, 2_000_000)
GRID = np.array([(n, t) for n in WIDTHS for t in TOKENS for _ in range(2)], dtype=float)


def planted(noise: float, seed: int = 0) -> np.ndarray:
    clean = KNOWN.at(GRID[:, 0], GRID[:, 1])
    return np.asarray(clean * np.exp(noise * np.random.default_rng(seed).normal(size=len(clean))))


def test_exponents_of_a_known_law_come_back_within_five_percent() -> None:
    law = fitted(GRID[:, 0], GRID[:, 1], planted(0.001), 9, 0)
    assert law.a == pytest.approx(KNOWN.a, rel=0.05)
    assert law.b == pytest.approx(KNOWN.b, rel=0.05)
    assert pytest.approx(KNOWN.E, rel=0.1) == law.E
    np.testing.assert_allclose(law.at(GRID[:, 0], GRID[:, 1]), planted(0), rtol=0.01)


def test_intervals_hold_the_exponents_and_grow_with_the_noise() -> None:
    widths = []
    for noise in (0.005, 0.03):
        law, body = with_intervals(GRID[:, 0], GRID[:, 1], planted(noise, 3), 3, 30, 0)
        for name in ("a", "b"):
            low, high = body[name]["ci95"]
            assert low <= getattr(KNOWN, name) <= high
            assert body[name]["value"] == getattr(law, name)
        widths.append(body["a"]["ci95"][1] - body["a"]["ci95"][0])
        assert body["error"] == pytest.approx(noise, rel=0.4)
    assert widths[1] > 2 * widths[0]


def test_intervals_hold_a_known_exponent_as_often_as_they_say() -> None:
    inside = 0
    for seed in range(10):
        _, body = with_intervals(GRID[:, 0], GRID[:, 1], planted(0.02, seed), 2, 20, seed)
        inside += body["a"]["ci95"][0] <= KNOWN.a <= body["a"]["ci95"][1]
    assert inside >= 7


def test_what_does_not_fall_has_no_exponent_that_counts() -> None:
    flat = 0.4 * np.exp(0.002 * np.random.default_rng(0).normal(size=len(GRID)))
    law = fitted(GRID[:, 0], GRID[:, 1], flat, 9, 0)
    said = law.at(np.array([128.0, 2048.0]), np.array([1e6, 1e6]))
    assert said[1] / said[0] == pytest.approx(1, abs=0.01)


def test_the_best_width_is_that_of_a_search() -> None:
    budget, d_model = 1e12, 64
    (best,) = best_spent(KNOWN, d_model, [budget], WIDTHS, TOKENS)
    n = np.geomspace(64, 4096, 20_001)
    every = KNOWN.at(n, budget / (12 * d_model) / n)
    assert best["d_sae"] == pytest.approx(n[every.argmin()], rel=0.01)
    assert best["unexplained"] == pytest.approx(every.min(), rel=1e-6)
    assert flops(best["d_sae"], best["tokens"], d_model) == pytest.approx(budget, rel=0.01)


def test_nothing_is_said_of_budgets_far_beyond_the_grid() -> None:
    far = best_spent(KNOWN, 64, [1e6, 1e18], WIDTHS, TOKENS)
    assert [each["d_sae"] for each in far] == [None, None]
    assert best_spent(Law(0.1, 1.0, 0.0, 1.0, 0.5), 64, [1e12], WIDTHS, TOKENS)[0]["tokens"] is None


def test_a_law_foretells_longer_trainings_of_the_same_law_and_not_of_another() -> None:
    right = forecast(GRID[:, 0], GRID[:, 1], planted(0.001), 9, 0)
    assert right["tokens"] == 2_000_000
    assert right["ratio"] == pytest.approx(1, abs=0.02)
    longest = GRID[:, 1] == GRID[:, 1].max()
    wrong = forecast(GRID[:, 0], GRID[:, 1], np.where(longest, 1.5, 1) * planted(0.001), 9, 0)
    assert wrong["ratio"] == pytest.approx(1.5, abs=0.05)
    few = GRID[:, 1] <= 500_000
    assert forecast(GRID[few, 0], GRID[few, 1], planted(0)[few], 3, 0)["ratio"] is None


def test_the_other_form_is_told_apart_by_its_error() -> None:
    missed = 40 * GRID[:, 0] ** -0.4 * GRID[:, 1] ** -0.3 * np.exp(0.005 * np.random.default_rng(1).normal(size=len(GRID)))
    own = product(GRID[:, 0], GRID[:, 1], missed, 200, 0)
    for name, known in (("a", 0.4), ("b", 0.3)):
        assert own[name]["value"] == pytest.approx(known, rel=0.05)
        assert own[name]["ci95"][0] <= known <= own[name]["ci95"][1]
    assert own["forecast"] == pytest.approx(1, abs=0.02)
    other = product(GRID[:, 0], GRID[:, 1], planted(0.005), 20, 0)
    assert other["error"] > 5 * own["error"]
    assert other["forecast"] > 1.05


def test_normal_vectors_have_the_mean_and_covariance_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(20_000, 6, generator=generator) < 0.1).float() @ torch.randn(6, 4, generator=generator) + 2
    drawn, held = gaussian(x, 5_000, 1)
    assert (len(drawn), len(held)) == (20_000, 5_000)
    torch.testing.assert_close(drawn.mean(0), x.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(x.T), atol=0.05, rtol=0.05)
    kurtosis = ((drawn - drawn.mean(0)) / drawn.std(0)).pow(4).mean(0)
    torch.testing.assert_close(kurtosis, torch.full((4,), 3.0), atol=0.2, rtol=0)
    assert torch.equal(gaussian(x, 5_000, 1)[1], held)


def test_every_token_is_trained_on_once_before_any_comes_again() -> None:
    x = torch.arange(24.0).unsqueeze(1)
    batches = in_order(x, Sae(batch_size=8, k=1), "cpu")
    first = torch.cat([next(batches) for _ in range(3)])
    assert sorted(first.flatten().tolist()) == list(range(24))
    assert not torch.equal(first, x)


def test_a_batch_may_be_larger_than_the_training_is_long() -> None:
    parts = (torch.full((7, 2), float(k)) for k in count())
    batches = shuffled(parts, Sae(batch_size=32, tokens=10, k=1))
    assert [len(next(batches)) for _ in range(3)] == [32] * 3


def test_features_are_revived_after_a_share_of_each_training() -> None:
    sae, run = Sae(k=4, batch_size=100), Run([64], 10_000, 1, False, 0.2, 1_000)
    own = of_width(sae, run, 64)
    assert (own.dead_steps, own.seed, own.tokens, own.d_sae, own.architecture) == (20, 1, 10_000, 64, "topk")


RUN: dict[str, Any] = {"d_sae": [8, 24], "tokens": 6_000, "seed": 0, "gaussian": False, "revived": 0.2, "held_out": 1_000}
SETTINGS = Sae(k=4, layer=0, batch_size=256, lr=3e-3)
Runs = Callable[..., pl.DataFrame]


@pytest.fixture(scope="module")
def runs(record: Path, tiny_settings: Any, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A table of runs, for some changes of what they are."""
    home, loaded = tmp_path_factory.mktemp("runs"), load_model(record)
    corpus = Path(tiny_settings.corpus)
    rows = next(corpus_rows(loaded, corpus_of(corpus, tiny_settings), 7))
    contexts = [row.ids for row in rows] + prompt_ids(loaded.tokenizer, ["three numbers"])
    write_parquet(home / "text.parquet", pl.DataFrame({"row": range(len(contexts)), "ids": contexts}), {})

    def make(name: str = "runs", settings: Sae = SETTINGS, **changes: Any) -> pl.DataFrame:
        (home / "scratch").mkdir(exist_ok=True)
        path = home / f"{name}.parquet"
        of_model = Model(embedded=tiny_settings)
        make_scaling_runs(record, corpus, home / "text.parquet", path, RUN | changes, settings, of_model, {}, home / "scratch")
        return pl.read_parquet(path)

    return make


def test_a_run_has_a_row_for_each_width_and_wider_explains_more(runs: Runs) -> None:
    table = runs()
    assert table["d_sae"].to_list() == [8, 24]
    first, second = table.rows(named=True)
    assert 0 < first["explained_variance"] < second["explained_variance"] < 1
    assert (first["tokens"], first["seed"], first["gaussian"]) == (6_000, 0, False)
    assert second["flops"] == 6 * 6_000 * 2 * first["d_model"] * 24
    assert second["loss_recovered"] > first["loss_recovered"]
    assert first["l0"] <= 4
    control = runs("control", gaussian=True)
    assert control["loss_recovered"].null_count() == 2
    # In normal vectors nothing is sparse: few active features explain less of them.
    assert control["explained_variance"].max() < second["explained_variance"]  # type: ignore[operator]


def test_a_killed_run_goes_on_with_the_widths_that_it_had(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, real, trained = runs("whole"), width_runs.measured, []

    def killed(*args: Any) -> dict[str, Any]:
        trained.append(args)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(width_runs, "measured", killed)
    with pytest.raises(KeyboardInterrupt):
        runs("killed")
    assert runs("killed").equals(whole)
    assert len(trained) == 3


def test_runs_of_a_named_model_are_trained_on_its_table_of_text(record: Path, loaded: LoadedModel, tmp_path: Path) -> None:
    contexts = prompt_ids(loaded.tokenizer, [f"The {k} lions and {3 * k} owls." for k in range(300)])
    text = tmp_path / "text.parquet"
    write_parquet(text, pl.DataFrame({"row": range(len(contexts)), "ids": contexts}), {})
    tables = []
    for seed in (0, 0, 1):
        (tmp_path / "scratch").mkdir()
        run = {**RUN, "d_sae": [8], "tokens": 2_000, "seed": seed}
        make_text_scaling_runs(record, text, text, tmp_path / "runs.parquet", run, SETTINGS, {}, tmp_path / "scratch")
        tables.append(pl.read_parquet(tmp_path / "runs.parquet"))
    assert tables[0].equals(tables[1])
    assert tables[0]["explained_variance"][0] != tables[2]["explained_variance"][0]
    assert tables[0]["tokens"].to_list() == [2_000]


def test_an_sae_narrower_than_its_active_features_is_refused(runs: Runs) -> None:
    with pytest.raises(ConfigError, match=r"scaling.d_sae 8: sae.k is 9; expected widths of at least 9 features"):
        runs("refused", SETTINGS.model_copy(update={"k": 9}))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    home, paths = tmp_path_factory.mktemp("scaling"), []
    for tokens in TOKENS:
        for seed, control in ((0, False), (1, False), (0, True)):
            some = (GRID[:, 1] == tokens) & (np.arange(len(GRID)) % 2 == seed)
            missed = 0.4 * np.ones(some.sum()) * (1 + 0.001 * np.arange(some.sum())) if control else planted(0.002)[some]
            columns = {"d_sae": GRID[some, 0].astype(int), "explained_variance": 1 - missed, "pca": 0.6}
            paths.append(home / f"{tokens}-{seed}-{control}.parquet")
            table = pl.DataFrame(columns).with_columns(
                tokens=pl.lit(tokens), seed=pl.lit(seed), gaussian=pl.lit(control), d_model=pl.lit(64)
            )
            write_parquet(paths[-1], table.with_columns(flops=768 * pl.col("d_sae") * pl.col("tokens")), {})
    law = {"starts": 6, "bootstraps": 20, "budgets": 4, "seed": 0}
    make_scaling(paths, home / "scaling.parquet", home / "scaling.json", law, {})
    plot_scaling(home / "scaling.parquet", home / "scaling.json", home / "scaling.png")
    assert len(pl.read_parquet(home / "scaling.parquet")) == 75
    return read_json(home / "scaling.json"), Image.open(home / "scaling.png").info["Description"]


def test_the_law_of_text_stands_beside_that_of_controls(made: tuple[dict[str, Any], str]) -> None:
    body, texts = made
    assert body["text"]["a"]["value"] == pytest.approx(KNOWN.a, rel=0.05)
    assert body["text"]["runs"] == 50
    assert body["gaussian"]["runs"] == 25
    assert body["pca"] == pytest.approx(0.4)
    assert body["seeds"] == pytest.approx(0.002, rel=0.5)
    assert len(body["text"]["budgets"]) == 4
    assert "normal vectors" in texts.splitlines()
    assert "principal components" in texts
    assert "best, by the law" in texts


def test_a_fit_says_no_more_than_its_grid(made: tuple[dict[str, Any], str]) -> None:
    one = pl.DataFrame(
        {"d_sae": GRID[:, 0].astype(int), "tokens": GRID[:, 1].astype(int), "explained_variance": 1 - planted(0)}
    )
    one = one.with_columns(flops=768 * pl.col("d_sae") * pl.col("tokens"), d_model=pl.lit(64))
    for each in fit(one, {"starts": 6, "bootstraps": 20, "budgets": 3, "seed": 0})["budgets"]:
        assert each["d_sae"] is None or 128 / 4 <= each["d_sae"] <= 4 * 2048


def test_a_grid_has_a_run_for_each_length_and_seed_and_controls() -> None:
    study = load({"scaling": {"tokens": [1_000, 2_000, 3_000], "seeds": [0, 5], "controls": [7]}})
    assert study.runs == [f"{t}-{s}" for t in (1000, 2000, 3000) for s in (0, 5)] + [
        f"{t}-7-gaussian" for t in (1000, 2000, 3000)
    ]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"d_sae": [128, 256]}, "scaling.d_sae"),
        ({"tokens": [1_000, 1_000, 2_000]}, "expected different whole numbers from 1 up, found"),
        ({"seeds": [-1]}, "expected different whole numbers from 0 up, found"),
        ({"controls": []}, "scaling.controls"),
        ({"revived": 0}, "scaling.revived"),
    ],
)
def test_what_is_no_grid_is_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load({"scaling": settings})
