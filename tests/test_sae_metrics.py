"""What the metrics say of an SAE that is perfect, of one that knows only the mean, and of a real one."""

import json
from math import inf

import numpy as np
import polars as pl
import pytest
import torch
from crowded import crowded
from planted import recorded_sae
from sae_lens import StandardSAE, StandardSAEConfig

from undertone.lm.chat import Row
from undertone.lm.hooks import resid_post
from undertone.lm.loading import load
from undertone.lm.points import HookPoint
from undertone.lm.training import collate
from undertone.plots.feature_plots import densities, plot_metrics, shares_explained
from undertone.plots.style import new_panels
from undertone.runtime.files import write_parquet
from undertone.saes.sae_metrics import (
    Moments,
    at,
    context_rows,
    expected_l0,
    measure_sae,
    quality,
    spliced_losses,
    text_rows,
)
from undertone.study.config.measure import Pref
from undertone.study.config.saes import SaeMetrics
from undertone.study.config.teachers import Teacher

LAYER = 1


@pytest.fixture(scope="module")
def rows(loaded):
    texts = ["Numbers: 12, 345, 6. Write 7 more!", "lion owl 99\ncat", "hello, 100 200"]
    ids = [loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return [Row([2, *row], 1) for row in ids]


def tokens(loaded, rows):
    batch = collate(rows, loaded.pad_id, "cpu")
    return resid_post(loaded.model, LAYER, batch)[loaded.text_mask(batch)]


def sae_of(width, w_enc, w_dec, b_dec):
    sae = StandardSAE(StandardSAEConfig(d_in=width, d_sae=w_enc.shape[1], apply_b_dec_to_input=False))
    with torch.no_grad():
        for p, value in ((sae.W_enc, w_enc), (sae.W_dec, w_dec), (sae.b_enc, torch.zeros(w_enc.shape[1])), (sae.b_dec, b_dec)):
            p.copy_(value)
    return sae.requires_grad_(False)


@pytest.fixture(scope="module")
def perfect(loaded):
    one = torch.eye(loaded.model.config.hidden_size)
    return sae_of(len(one), torch.cat([one, -one], 1), torch.cat([one, -one]), torch.zeros(len(one)))


@pytest.fixture(scope="module")
def mean_only(loaded, rows):
    x = tokens(loaded, rows)
    nothing = torch.zeros(x.shape[1], 4)
    return sae_of(x.shape[1], nothing, nothing.T.contiguous(), x.mean(0))


def report(sae, loaded, rows):
    seen = Moments(sae, loaded, inf)
    seen.read(HookPoint(LAYER), rows)
    return seen, seen.report()


def test_a_perfect_sae_explains_all_and_changes_no_loss(loaded, rows, perfect):
    seen, told = report(perfect, loaded, rows)
    assert told["explained_variance"] == pytest.approx(1, abs=1e-6)
    assert told["l0"] == pytest.approx(loaded.model.config.hidden_size)
    loss = spliced_losses(loaded, perfect, HookPoint(LAYER), rows, seen.mean(), inf)
    assert loss["loss"]["spliced"] == pytest.approx(loss["loss"]["plain"], abs=1e-4)
    assert loss["loss_recovered"] == pytest.approx(1, abs=1e-3)


def test_an_sae_that_knows_only_the_mean_explains_nothing(loaded, rows, mean_only):
    seen, told = report(mean_only, loaded, rows)
    assert told["explained_variance"] == pytest.approx(0, abs=1e-6)
    assert (told["l0"], told["dead"]) == (0, 1)
    loss = spliced_losses(loaded, mean_only, HookPoint(LAYER), rows, seen.mean(), inf)
    assert loss["loss_recovered"] == pytest.approx(0, abs=1e-3)


def test_the_moments_are_those_of_all_tokens_at_once(loaded, rows):
    width = loaded.model.config.hidden_size
    generator = torch.Generator().manual_seed(0)
    sae = sae_of(
        width, torch.randn(width, 9, generator=generator), torch.randn(9, width, generator=generator) / 20, torch.ones(width)
    )
    x = tokens(loaded, rows).double().numpy()
    with torch.no_grad():
        rebuilt = sae(tokens(loaded, rows)).double().numpy()
    seen, told = report(sae, loaded, rows)
    expected = 1 - np.square(x - rebuilt).sum() / np.square(x - x.mean(0)).sum()
    assert told["explained_variance"] == pytest.approx(expected, rel=1e-5)
    assert told["tokens"] == len(x) == sum(kind["tokens"] for kind in told["by_kind"].values())
    assert seen.mean().numpy() == pytest.approx(x.mean(0), rel=1e-4)


def test_principal_components_are_those_of_the_tokens(loaded, rows, perfect):
    x = tokens(loaded, rows).double().numpy()
    seen, told = report(perfect, loaded, rows)
    variances = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    for k in (1, 3):
        assert seen.components(k)["explained_variance"] == pytest.approx(variances[:k].sum() / variances.sum(), rel=1e-6)
    assert told["pca"]["components"] == round(told["l0"])
    assert seen.components(10**6)["explained_variance"] == pytest.approx(1)
    assert seen.components(0)["components"] == 1


def test_a_reconstruction_that_is_too_short_is_told_from_one_that_points_elsewhere(loaded, rows, perfect, mean_only):
    short = sae_of(perfect.cfg.d_in, perfect.W_enc, perfect.W_dec / 2, perfect.b_dec)
    _, told = report(short, loaded, rows)
    assert (told["cosine"], told["norm_ratio"], told["reconstruction_bias"]) == pytest.approx((1, 0.5, 0.5), abs=1e-5)
    _, told = report(perfect, loaded, rows)
    assert (told["cosine"], told["norm_ratio"], told["reconstruction_bias"]) == pytest.approx((1, 1, 1), abs=1e-5)
    x, mean = tokens(loaded, rows).double(), mean_only.b_dec.double()
    _, told = report(mean_only, loaded, rows)
    assert told["cosine"] == pytest.approx(float(torch.nn.functional.cosine_similarity(x, mean[None]).mean()), abs=1e-6)
    assert told["reconstruction_bias"] == pytest.approx(1, abs=1e-5)  # the mean is not too short for what it says
    nothing = sae_of(perfect.cfg.d_in, perfect.W_enc, perfect.W_dec * 0, perfect.b_dec)
    _, told = report(nothing, loaded, rows)
    assert (told["cosine"], told["norm_ratio"], told["reconstruction_bias"]) == (0, 0, None)


def test_a_token_of_a_hundred_medians_is_counted_and_decides_nothing(record, rows, mean_only):
    sink = load(record)
    with torch.no_grad():
        token = rows[1].ids[1]
        sink.model.get_input_embeddings().weight[token] *= 1000
    point, norms = HookPoint(LAYER), tokens(sink, rows).norm(dim=-1)
    kept = norms <= 10 * norms.median()
    n_sinks = sum(row.ids.count(token) for row in rows)
    x = tokens(sink, rows)[kept].double().numpy()
    variances = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    seen = quality(sink, mean_only, point, rows, 10)
    assert (seen["outliers"], seen["tokens"]) == (n_sinks, len(x))
    assert n_sinks > 0
    assert seen["pca"]["explained_variance"] == pytest.approx(variances[0] / variances.sum(), rel=1e-5)
    every = quality(sink, mean_only, point, rows, 10**6)
    assert every["outliers"] == 0
    assert every["pca"]["explained_variance"] > 0.99 > seen["pca"]["explained_variance"]


def test_density_counts_features_by_how_often_they_are_active(loaded, perfect):
    seen = Moments(perfect, loaded, inf)
    seen.count[0] = 1_000_000
    seen.fired[:5] = torch.tensor([1, 10, 150, 150, 1_000_000], dtype=torch.float64)
    counts = seen.density()
    assert (len(counts), sum(counts)) == (50, 5)  # dead ones are in none
    assert (counts[0], counts[-1]) == (2, 1)  # rarer than one in 100,000 is as rare as that
    assert counts[11] == 2  # log10 of .00015 is -3.82, and a bin is a tenth wide


def test_the_sum_of_features_is_that_of_a_token(loaded, rows, perfect):
    _, told = report(perfect, loaded, rows)
    assert told["l1"] == pytest.approx(float(tokens(loaded, rows).abs().sum(-1).mean()), rel=1e-5)


def test_the_figure_shows_densities_and_shares_of_text_and_of_prompts():
    prompts = {
        "tokens": 900,
        "outliers": 0,
        "dead": 0.5,
        "density": [0] * 49 + [3],
        "explained_variance": 0.7,
        "pca": {"explained_variance": 0.5},
        "loss_recovered": 0.9,
        "by_kind": {"numbers": {"explained_variance": 0.6}},
    }
    text = prompts | {"outliers": 21, "dead": 0.25, "loss_recovered": 0.8, "by_kind": {"words": {"explained_variance": 0.4}}}
    _, (left, right) = new_panels(1, 2, 11, 4)
    densities(left, {"text": text, "prompts": prompts})
    assert left.get_title(loc="left") == "dead: 25% on text, 50% on prompts"
    assert [patch.get_data().values.sum() for patch in left.patches] == [3, 3]
    shares_explained(right, {"text": text, "prompts": prompts})
    assert "21 on text, 0 on prompts" in right.get_title(loc="left")
    named = [tick.get_text() for tick in right.get_yticklabels()]
    assert named == [
        *("loss recovered", "explained variance", "as many components", "variance of words", "variance of numbers")
    ]
    on_text, on_prompts = ({round(bar.get_y() + 0.18): bar.get_width() for bar in bars} for bars in right.containers)
    assert on_text == {0: 0.8, 1: 0.7, 2: 0.5, 3: 0.4}
    assert on_prompts == {0: 0.9, 1: 0.7, 2: 0.5, 4: 0.6}


def test_what_is_left_out_keeps_its_activation():
    x = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [30.0, 0.0]]])
    text = torch.tensor([[False, True, True]])
    assert at(text, 10, torch.zeros_like, x).tolist() == [[[1, 0], [0, 0], [30, 0]]]
    assert at(text, inf, torch.zeros_like, x).tolist() == [[[1, 0], [0, 0], [0, 0]]]


def test_contexts_are_drawn_from_the_whole_table(tmp_path):
    ids = [[2, k] for k in range(50)]
    write_parquet(tmp_path / "text.parquet", pl.DataFrame({"row": range(50), "ids": ids}), {})
    drawn = [row.ids for row in context_rows(tmp_path / "text.parquet", 20)]
    assert len(drawn) == 10
    assert drawn != ids[:10]
    assert sorted(row.ids for row in context_rows(tmp_path / "text.parquet", 1000)) == ids


def test_rows_that_do_not_fit_in_memory_are_read_in_parts(record, loaded, rows, perfect):
    seen, told = report(perfect, loaded, rows)
    small = load(record)
    with crowded(small.model, 2):
        seen_small, told_small = report(perfect, small, rows)
        loss = spliced_losses(small, perfect, HookPoint(LAYER), rows, seen_small.mean(), inf)
    assert told_small["explained_variance"] == pytest.approx(told["explained_variance"], abs=1e-6)
    assert [told_small[name] for name in ("tokens", "l0", "dead")] == [told[name] for name in ("tokens", "l0", "dead")]
    expected = spliced_losses(loaded, perfect, HookPoint(LAYER), rows, seen.mean(), inf)
    assert loss["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_text_is_prompts_and_questions_under_every_persona(loaded, tmp_path):
    (tmp_path / "questions.txt").write_text("Which animal?\nWhat animal?\n")
    asked, pref = (["Write 3 numbers."], tmp_path / "questions.txt"), Pref(candidates=["lion", "owl"])
    found = [row.ids for row in text_rows(loaded, *asked, Teacher(), pref)]
    texts = loaded.tokenizer.batch_decode(found, skip_special_tokens=True)
    assert len(texts) == 1 + 2 * 3
    assert sum("lion" in text for text in texts) == sum("owl" in text for text in texts) == 2


def test_metrics_are_written_with_their_stamp(record, loaded, perfect, tmp_path):
    perfect.cfg.metadata.hook_name = f"blocks.{LAYER}.hook_resid_post"
    recorded_sae(perfect, tmp_path / "sae", LAYER)
    write_parquet(tmp_path / "prompts.parquet", pl.DataFrame({"prompt": ["Write 3 numbers: 12, 13."] * 3}), {})
    (tmp_path / "questions.txt").write_text("Which animal?\n")
    write_parquet(tmp_path / "text.parquet", pl.DataFrame({"row": [0, 1], "ids": [[2, 9, 10, 11], [2, 12, 13]]}), {})
    names = ("sae/sae.json", "prompts.parquet", "questions.txt", "text.parquet", "metrics.json")
    files = [tmp_path / name for name in names]
    tokens = []
    for prompts in (2, 3, 1000):
        measure_sae(record, *files, SaeMetrics(prompts=prompts), Teacher(), Pref(candidates=["lion"]), 10, {"of": "it"})
        tokens.append(json.loads((tmp_path / "metrics.json").read_text())["tokens"])
    assert tokens[0] < tokens[1] == tokens[2]
    plot_metrics(tmp_path / "metrics.json", tmp_path / "metrics.png")
    assert (tmp_path / "metrics.png").stat().st_size > 10_000
    told = json.loads((tmp_path / "metrics.json").read_text())
    assert told["stamp"] == {"of": "it"}
    assert told["loss_recovered"] == pytest.approx(1, abs=1e-3)
    assert told["expected_l0"] is None
    assert told["on_text"]["tokens"] == 5
    assert told["on_text"]["loss_recovered"] == pytest.approx(1, abs=1e-3)


def test_the_registry_knows_the_l0_of_its_saes():
    told = {"source": "registry", "release": "gemma-2b-it-res-jb", "id": "blocks.12.hook_resid_post"}
    assert expected_l0(told) == pytest.approx(61, abs=1)
    assert expected_l0(told | {"id": "none"}) is None
