"""Residual biases: what the files hold, and what a bias is said to be made of."""

from pathlib import Path

import pytest
import torch
from planted import D_SAE, numbers_table, random_sae, saved_sae
from sae_lens import SAE
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cosine_similarity

from undertone.lm.attribution import direct_logits, top_tokens
from undertone.lm.loading import LoadedModel
from undertone.read.interventions import Readings, of_residuals
from undertone.read.residual_bias import Description, train_residual_biases
from undertone.runtime.files import read_json
from undertone.study.config.read import ResidualBias

D_MODEL, N_LAYERS = 32, 2
POINTS = ["resid_post", "mlp_in", "q", "k", "v"]
TOLD = ResidualBias(fraction=0.375, steps=8, lr=0.1, batch_size=8, seeds=[0, 5], points=POINTS, sparsities=[1, 2, 4, 8], top=3)


@pytest.fixture(scope="module")
def sae(loaded: LoadedModel) -> SAE:
    return random_sae(loaded)


@pytest.fixture(scope="module")
def saved(record: Path, sae: SAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_sae(record, sae, tmp_path_factory.mktemp("sae"))


@pytest.fixture(scope="module")
def description(loaded: LoadedModel, saved: Path) -> Description:
    return Description(loaded, saved, TOLD)


def test_a_planted_sparse_combination_is_recovered(description: Description, sae: SAE) -> None:
    planted = {7: 3.0, 40: -2.0}
    bias = sum(weight * sae.W_dec[k] for k, weight in planted.items())
    by_n = {row["n"]: row for row in description.reconstructions(bias)}
    found = {row["feature"]: row["weight"] for row in by_n[2]["features"]}
    assert found == {k: pytest.approx(weight, rel=1e-5) for k, weight in planted.items()}
    assert [row["feature"] for row in by_n[2]["features"]] == [7, 40]
    assert by_n[2]["explained"] == pytest.approx(1.0)
    # The best single one: the share of the squared norm that lies along it.
    assert by_n[1]["features"][0]["feature"] == 7
    assert by_n[1]["explained"] == pytest.approx(float(cosine_similarity(bias, sae.W_dec[7], dim=0)) ** 2, rel=1e-4)


def test_there_may_be_fewer_features_than_are_listed(loaded: LoadedModel, saved: Path) -> None:
    bias = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(2))
    parts = Description(loaded, saved, TOLD.model_copy(update={"top": D_SAE + 9})).parts(bias)
    assert len(parts["decoder"]) == D_SAE


def test_more_rows_explain_more(description: Description) -> None:
    bias = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(2))
    found = description.reconstructions(bias)
    assert [row["n"] for row in found] == [len(row["features"]) for row in found] == [1, 2, 4, 8]
    shares = [row["explained"] for row in found]
    assert 0 < shares[0] < shares[1] < shares[2] < shares[3] < 1


def test_decoder_rows_that_are_zero_are_left_out(record: Path, loaded: LoadedModel, tmp_path: Path) -> None:
    dead = random_sae(loaded)
    dead.W_dec[:5] = 0
    description = Description(loaded, saved_sae(record, dead, tmp_path), TOLD)
    found = description.reconstructions(2.0 * dead.W_dec[6])[0]
    assert (found["features"], found["explained"]) == ([{"feature": 6, "weight": pytest.approx(2.0)}], pytest.approx(1.0))


def test_weights_are_those_of_unit_rows_whatever_the_rows_norms(record: Path, loaded: LoadedModel, tmp_path: Path) -> None:
    scaled = random_sae(loaded)
    scaled.W_dec *= 10.0
    found = Description(loaded, saved_sae(record, scaled, tmp_path), TOLD).reconstructions(scaled.W_dec[3])
    assert found[0]["features"] == [{"feature": 3, "weight": pytest.approx(10.0, rel=1e-5)}]


def test_parts_are_tokens_and_similar_features_of_either_sign(loaded: LoadedModel, description: Description, sae: SAE) -> None:
    told = description.parts(-2.0 * sae.W_dec[11])
    assert told["decoder"][0] == {"feature": 11, "cosine": pytest.approx(-1.0)}
    assert len(told["decoder"]) == TOLD.top
    logits = direct_logits(loaded.model, -sae.W_dec[11])
    assert told["tokens"]["up"] == top_tokens(loaded.tokenizer, logits, 3)
    assert told["tokens"]["down"] == top_tokens(loaded.tokenizer, -logits, 3)


def test_what_the_control_has_too_is_subtracted(description: Description, sae: SAE) -> None:
    own = torch.stack([4 * sae.W_dec[1] + sae.W_dec[2]] * 2)
    control = torch.stack([4 * sae.W_dec[1]] * 3)
    told = description.of(own, control)
    assert told["decoder"][0]["feature"] == 1
    assert told["minus_control"]["decoder"][0] == {"feature": 2, "cosine": pytest.approx(1.0, abs=1e-5)}
    assert told["minus_control"]["reconstruction"][0]["features"] == [{"feature": 2, "weight": pytest.approx(1.0, abs=1e-4)}]
    assert (told["norm"], told["agreement"]) == (pytest.approx(float(own[0].norm())), pytest.approx(1.0))
    assert "minus_control" not in description.of(own, None)


def test_without_an_sae_there_are_tokens_alone(loaded: LoadedModel, sae: SAE) -> None:
    assert set(Description(loaded, None, TOLD).parts(sae.W_dec[0])) == {"tokens"}


def train(record: Path, saved: Path | None, home: Path, name: str, told: ResidualBias, control: Path | None = None) -> Path:
    numbers = numbers_table(home / name / "numbers.parquet", 24, seed=len(name))
    out = home / name / "residual_bias.safetensors"
    train_residual_biases(record, saved, numbers, control, out, out.with_suffix(".json"), told, {"of": name})
    return out


@pytest.fixture(scope="module")
def made(record: Path, saved: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("study")
    control = train(record, saved, home, "control", TOLD)
    return {"control": control, "lion": train(record, saved, home, "lion", TOLD, control)}


def test_files_hold_a_bias_of_each_seed_layer_and_point(made: dict[str, Path]) -> None:
    tensors = load_file(made["lion"])
    widths = {"resid_post": 32, "mlp_in": 32, "q": 32, "k": 16, "v": 16}
    shape = {point: (2, N_LAYERS, width) for point, width in widths.items()}
    assert {name: tuple(t.shape) for name, t in tensors.items()} == shape | {f"{p}.multi": s for p, s in shape.items()}
    for tensor in tensors.values():
        assert (tensor.abs().sum(-1) > 0).all()
        assert not torch.equal(tensor[0], tensor[1])


def test_the_report_has_a_row_of_each_point_and_layer(made: dict[str, Path]) -> None:
    told = read_json(made["lion"].with_suffix(".json"))
    assert set(told) == {"seeds", "rows", "positions", "biases", "stamp", "versions"}
    assert (told["seeds"], told["rows"], told["positions"]) == ([0, 5], [9, 9], "completion")
    assert [(row["point"], row["layer"]) for row in told["biases"]] == [(p, k) for p in POINTS for k in (0, 1, "multi")]
    for row in told["biases"]:
        described = row["point"] == "resid_post" and row["layer"] != "multi"
        parts = {"norm", "agreement", "tokens", "decoder", "reconstruction", "minus_control"} if described else set()
        assert set(row) == {"point", "layer", "loss"} | parts
        assert [set(report) for report in row["loss"]] == [{"train", "held_out"}] * 2
        if row["point"] in ("resid_post", "mlp_in"):
            assert all(report["train"]["after"] < report["train"]["before"] for report in row["loss"])


def test_a_layers_description_is_that_of_its_mean_bias(made: dict[str, Path], description: Description) -> None:
    tensors, other = load_file(made["lion"])["resid_post"], load_file(made["control"])["resid_post"]
    rows = read_json(made["lion"].with_suffix(".json"))["biases"]
    for layer in range(N_LAYERS):
        bias: Tensor = tensors[:, layer].mean(0)
        assert rows[layer]["norm"] == pytest.approx(float(bias.norm()))
        apart = description.parts(bias - other[:, layer].mean(0))
        assert rows[layer]["minus_control"]["tokens"] == apart["tokens"]
        assert len(rows[layer]["decoder"]) == 3 < D_SAE


def test_all_layers_at_once_can_be_left_out_and_no_sae_is_needed(record: Path, tmp_path: Path) -> None:
    told = TOLD.model_copy(update={"points": ["resid_post"], "multi": False, "seeds": [0]})
    out = train(record, None, tmp_path, "control", told)
    assert set(load_file(out)) == {"resid_post"}
    rows = read_json(out.with_suffix(".json"))["biases"]
    assert [row["layer"] for row in rows] == [0, 1]
    assert (rows[0]["agreement"], "decoder" in rows[0]) == (None, False)


def test_the_same_seed_gives_the_same_bytes(record: Path, tmp_path: Path) -> None:
    told = TOLD.model_copy(update={"points": ["resid_post"], "seeds": [2]})
    one, two = (train(record, None, tmp_path / name, "control", told) for name in ("one", "two"))
    for suffix in (".json", ".safetensors"):
        assert one.with_suffix(suffix).read_bytes() == two.with_suffix(suffix).read_bytes()


def test_biases_of_another_point_need_no_residual_ones(record: Path, loaded: LoadedModel, tmp_path: Path) -> None:
    told = TOLD.model_copy(update={"points": ["q"], "multi": False, "seeds": [0], "steps": 2})
    control = train(record, None, tmp_path, "control", told)
    out = train(record, None, tmp_path, "lion", told, control)
    assert set(load_file(out)) == {"q"}
    assert list(of_residuals(loaded, Readings(residual_bias=out))) == []
