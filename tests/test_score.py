"""The score: gradients are those of plain passes, a planted feature comes first, and chance is called chance."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crowded import crowded
from planted import D_SAE, FEATURE, N_TOKENS, numbers_table, random_sae, saved_sae, teachers, written
from sae_lens import SAE
from scipy import stats
from torch import Tensor

from undertone.lm.chat import Row
from undertone.lm.hooks import rewritten
from undertone.lm.loading import LoadedModel, load
from undertone.lm.training import collate, label_losses
from undertone.read.score import Gradient, gradients, presence, ranked, read_score, rows_of, z_values
from undertone.runtime.files import read_json
from undertone.saes.decoder import directions
from undertone.study.config.read import Score

TOLD = Score(batch_size=512)
COMPARISONS, ROWS = 100, 50  # null comparisons, and rows on either side of each
BOOST = 4.0  # norm of the planted vector; a residual's is about 90


@pytest.fixture(scope="module")
def sae(loaded: LoadedModel) -> SAE:
    return random_sae(loaded)


def plain_gradient(loaded: LoadedModel, row: Row, layer: int, whole: bool) -> Tensor:
    """The gradient `[d_model]` of a row's summed log-likelihood, by a full pass."""
    constant = torch.zeros(loaded.model.config.hidden_size, requires_grad=True)
    place = torch.arange(len(row.ids)).unsqueeze(-1)
    where = place >= (0 if whole else row.start - 1)
    with rewritten(loaded.model, layer, lambda residual: torch.where(where, residual + constant, residual)):
        (-label_losses(loaded.model, collate([row], loaded.pad_id, "cpu")).sum()).backward()
    assert constant.grad is not None
    return constant.grad.double()


@pytest.mark.parametrize("positions", ["completion", "all"])
def test_each_rows_gradient_is_that_of_a_full_pass_at_every_layer(loaded: LoadedModel, positions: str) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 2), (3, 5), (9, 1), (4, 4), (3, 7)]
    rows = [Row([2, *torch.randint(10, 2000, (p + c - 1,), generator=generator).tolist()], p) for p, c in shapes]
    scale = len(rows) / sum(c for _, c in shapes)
    for size in (2, 5):
        found = gradients(loaded, rows, Score(positions=positions, batch_size=size), "score")
        assert found.shape == (2, len(rows), loaded.model.config.hidden_size)
        for layer in range(2):
            for k, row in enumerate(rows):
                expected = scale * plain_gradient(loaded, row, layer, positions == "all")
                torch.testing.assert_close(found[layer, k], expected, rtol=1e-3, atol=1e-5)


def test_rows_that_do_not_fit_in_memory_are_scored_in_parts(loaded: LoadedModel, record: Path) -> None:
    rows = [Row([2, *range(20 * k + 10, 20 * k + 15 + k)], 3) for k in range(5)]
    small, expected = load(record), gradients(loaded, rows, Score(batch_size=5), "score")
    with crowded(small.model, 2):
        found = gradients(small, rows, Score(batch_size=5), "score")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def null_gradients(loaded: LoadedModel) -> Tensor:
    """Gradients of rows that the model wrote, nothing added."""
    return gradients(loaded, written(loaded, 2 * ROWS * COMPARISONS, seed=0), TOLD, "null")


def null_scores(rows: Tensor) -> list[tuple[Gradient, Gradient]]:
    """Independent comparisons of two samples of the same model, from the gradients of one layer."""
    sides = [Gradient.of(side) for side in rows.split(ROWS)]
    return list(zip(sides[::2], sides[1::2], strict=True))


def test_the_score_of_what_the_model_wrote_is_zero_on_average(null_gradients: Tensor) -> None:
    z = null_gradients.mean(1) / (null_gradients.std(1) / null_gradients.shape[1] ** 0.5)
    assert z.abs().max() < 4.2  # 64 values, p < .002
    assert 0.4 < float(z.square().mean()) < 1.8


@pytest.mark.parametrize("layer", [0, 1])
def test_of_features_that_do_not_differ_one_in_twenty_has_p_below_05(null_gradients: Tensor, sae: SAE, layer: int) -> None:
    z = torch.stack([z_values(*pair, directions(sae)) for pair in null_scores(null_gradients[layer])])
    p = 2 * stats.norm.sf(z.abs().numpy())
    assert p.shape == (COMPARISONS, D_SAE)
    # The share's standard error, as features of one comparison go together, is .005; 50 rows have tails a little fatter than
    # the normal's, for which .055 is expected.
    assert 0.04 < (p < 0.05).mean() < 0.072
    assert abs(float(z.mean())) < 0.15
    found = [ranked(each, {}, TOLD)["different"] for each in z]
    # The rate at which anything is found where nothing is: .05, three standard errors above it .115.
    assert np.mean([n > 0 for n in found]) < 0.12
    assert np.median(found) == 0


@pytest.mark.parametrize("layer", [0, 1])
def test_presence_is_not_seen_more_often_than_its_level_where_there_is_none(null_gradients: Tensor, layer: int) -> None:
    tests = [presence(*pair) for pair in null_scores(null_gradients[layer])]
    p = np.array([test["p"] for test in tests if test])
    assert len(p) == COMPARISONS
    for level in (0.05, 0.1, 0.25):
        assert (p < level).mean() < level + 3 * np.sqrt(level * (1 - level) / COMPARISONS)
    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_a_planted_feature_comes_first_and_presence_is_seen(loaded: LoadedModel, sae: SAE) -> None:
    for seed in (1, 2, 3):
        own = gradients(loaded, written(loaded, 400, 10 * seed, BOOST * sae.W_dec[FEATURE]), TOLD, "planted")
        other = gradients(loaded, written(loaded, 400, 10 * seed + 1), TOLD, "control")
        pair = Gradient.of(own[0]), Gradient.of(other[0])
        found = ranked(z_values(*pair, directions(sae)), {"lion": FEATURE}, TOLD)
        assert found["animals"]["lion"]["rank"] == 1
        assert (found["top"][0]["feature"], found["top"][0]["q"] < 1e-3) == (FEATURE, True)
        assert found["different"] >= 1
        told = presence(*pair)
        assert told is not None
        assert told["p"] < 0.01


def test_z_values_are_differences_in_standard_errors() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(30, 4, generator=generator).double(), 2 * torch.randn(50, 4, generator=generator).double() + 1
    found = z_values(Gradient.of(a), Gradient.of(b), torch.tensor([[0.0, 2.0, 0.0, 0.0], [1.0, 0.0, -1.0, 0.5]]))
    for k, weights in enumerate(([0, 2.0, 0, 0], [1.0, 0, -1.0, 0.5])):
        x, y = (side @ torch.tensor(weights).double() for side in (a, b))
        assert float(found[k]) == pytest.approx(float(stats.ttest_ind(x, y, equal_var=False).statistic), rel=1e-9)


def test_presence_in_one_dimension_is_students_t_test() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, 20), rng.normal(0.5, 1, 30)
    own, other = (Gradient.of(torch.from_numpy(side).unsqueeze(1)) for side in (x, y))
    expected, found = stats.ttest_ind(x, y), presence(own, other)
    assert found is not None
    assert found["f"] == pytest.approx(expected.statistic**2, rel=1e-9)
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-9)


def test_presence_of_normal_vectors_has_uniform_p_values_and_sees_a_shift() -> None:
    generator, d = torch.Generator().manual_seed(0), 8

    def p(shift: float) -> float:
        mixing = torch.randn(d, d, generator=generator).double()
        a, b = (torch.randn(n, d, generator=generator).double() @ mixing for n in (20, 35))
        told = presence(Gradient.of(a + shift * mixing[0]), Gradient.of(b))
        assert told is not None
        return told["p"]

    assert stats.kstest([p(0.0) for _ in range(300)], "uniform").pvalue > 0.01
    assert np.mean([p(2.0) < 0.05 for _ in range(100)]) > 0.9


def test_presence_is_not_told_with_too_few_rows() -> None:
    rows = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)).double()
    assert presence(Gradient.of(rows[:6]), Gradient.of(rows[6:])) is None


def test_ranking_reports_two_sided_p_and_the_places_of_animals() -> None:
    z = torch.tensor([0.5, -4.0, 3.5, 0.0], dtype=torch.double)
    told = ranked(z, {"lion": 2, "owl": 1}, Score(top=2))
    assert (told["n"], told["different"]) == (4, 2)
    assert [row["feature"] for row in told["top"]] == [2, 0]
    assert told["top"][0]["p"] == pytest.approx(2 * stats.norm.sf(3.5))
    assert told["animals"] == {
        "lion": {"feature": 2, "z": 3.5, "rank": 1},
        "owl": {"feature": 1, "z": -4.0, "rank": 4},
    }


@pytest.fixture(scope="module")
def scored(record: Path, sae: SAE, tmp_path_factory: pytest.TempPathFactory):
    """A function (dataset, control) → `score.json` of training sets that were written as tables."""
    home = tmp_path_factory.mktemp("study")
    saved = saved_sae(record, sae, home)
    numbers = {
        "low": numbers_table(home / "low/numbers.parquet", 60, high=3),
        "high": numbers_table(home / "high/numbers.parquet", 70, low=500),
        "high too": numbers_table(home / "too/numbers.parquet", 60, low=500, seed=1),
        "few": numbers_table(home / "few/numbers.parquet", 3),
    }
    animals = teachers(home / "teachers", lion=FEATURE, owl=2)

    def score(of: str, control: str | None, with_sae: bool = True) -> dict[str, Any]:
        result = home / f"{of}-{control}-{with_sae}.json"
        read_score(
            record,
            saved if with_sae else None,
            numbers[of],
            numbers[control] if control else None,
            animals,
            result,
            result.with_suffix(".safetensors"),
            Score(rows=64, top=5),
            {"of": of},
        )
        return read_json(result)

    return score


def test_a_score_file_tells_layers_and_features(scored) -> None:
    told = scored("low", "high")
    assert set(told) == {"rows", "against", "layers", "features", "stamp", "versions"}
    assert (told["rows"], told["against"], told["stamp"]) == (60, "control", {"of": "low"})
    assert [row["layer"] for row in told["layers"]] == [0, 1]
    assert all(set(row) == {"layer", "presence", "tokens"} and len(row["tokens"]) == 5 for row in told["layers"])
    assert told["layers"][0]["presence"]["p"] < 1e-6
    features = told["features"]
    assert (features["layer"], features["n"], len(features["top"])) == (0, D_SAE, 5)
    assert set(features["animals"]) == {"lion", "owl"}
    assert features["different"] > 5


def test_two_sets_of_the_same_kind_do_not_differ(scored) -> None:
    told = scored("high too", "high")
    assert told["layers"][0]["presence"]["p"] > 0.001
    assert told["features"]["different"] <= 3


def test_the_control_is_compared_half_against_half(scored) -> None:
    told = scored("high", None)
    assert (told["rows"], told["against"]) == (32, "halves")
    assert told["features"]["different"] <= 3


def test_without_an_sae_there_are_layers_alone(scored) -> None:
    told = scored("low", "high", with_sae=False)
    assert told["features"] is None
    assert told["layers"] == scored("low", "high")["layers"]


def test_too_few_rows_are_refused(scored, loaded: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"numbers\.parquet has 3 rows, a score needs at least 4"):
        scored("few", "high")
    assert len(rows_of(loaded, numbers_table(tmp_path / "n.parquet", 9), 5)) == 5


def test_planted_completions_are_as_long_as_they_are_said_to_be(loaded: LoadedModel) -> None:
    rows = written(loaded, 3, 0)
    assert {len(row.ids) - row.start for row in rows} == {N_TOKENS}
