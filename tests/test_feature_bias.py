"""Feature biases: what SAELens's own hook computes, a planted feature found, nothing found where there is nothing."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import D_SAE, FEATURE, numbers_table, random_sae, saved_sae, teachers, written
from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig, SAETransformerBridge, TopKSAE, TopKSAEConfig
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from undertone.lm.chat import Row
from undertone.lm.hooks import hook_point
from undertone.lm.loading import LoadedModel
from undertone.lm.suffix import losses
from undertone.read.biases import gradient
from undertone.read.feature_bias import Spliced, shared_top, train_feature_biases
from undertone.runtime.files import read_json
from undertone.runtime.memory import BatchSize
from undertone.study.config.read import FeatureBias

CPU = torch.device("cpu")
TOLD = FeatureBias(steps=60, batch_size=400, lr=0.05, l1=0.0)


@pytest.fixture(scope="module")
def sae(loaded: LoadedModel) -> SAE:
    return random_sae(loaded)


@pytest.fixture(scope="module")
def spliced(loaded: LoadedModel, sae: SAE) -> Spliced:
    return Spliced(loaded, sae, 0)


def kind(name: str, like: SAE) -> SAE:
    """An SAE of another architecture with the weights of one, and decoder rows of norms 0.5 to 2."""
    size = {"d_in": like.cfg.d_in, "d_sae": like.cfg.d_sae}
    made: dict[str, Any] = {
        "standard": lambda: copy.deepcopy(like),
        "topk": lambda: TopKSAE(TopKSAEConfig(**size, k=5, rescale_acts_by_decoder_norm=True)),
        "jumprelu": lambda: JumpReLUSAE(JumpReLUSAEConfig(**size)),
    }
    sae = made[name]().requires_grad_(False)
    sae.W_enc.copy_(like.W_enc)
    sae.W_dec.copy_(like.W_dec * torch.linspace(0.5, 2.0, len(like.W_dec)).unsqueeze(1))
    sae.b_dec.copy_(torch.linspace(-1, 1, like.cfg.d_in))
    sae.cfg.metadata.hook_name = hook_point(0)
    return sae


@pytest.fixture(scope="module")
def bridge(record: Path, loaded: LoadedModel) -> SAETransformerBridge:
    return SAETransformerBridge.boot_transformers(
        str(record.parent), hf_model=copy.deepcopy(loaded.model), tokenizer=loaded.tokenizer, device="cpu"
    )


def saelens_losses(bridge: SAETransformerBridge, sae: SAE, row: Row, bias: Tensor, error: bool) -> Tensor:
    """Loss of each label with the SAE in the model and a bias on its activations."""
    ids = torch.tensor([row.ids])
    with bridge.saes([sae], use_error_term=error):
        name = bridge.get_sae_hook_name(sae)
        logits = bridge.run_with_hooks(ids, fwd_hooks=[(name, lambda active, hook: active + bias)])
    return cross_entropy(logits[0, row.start - 1 : -1], ids[0, row.start :], reduction="none")


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
@pytest.mark.parametrize("mode", ["project", "replace"])
def test_losses_and_gradients_are_those_of_saelens_with_a_bias_on_its_activations(
    loaded: LoadedModel, bridge: SAETransformerBridge, sae: SAE, architecture: str, mode: str
) -> None:
    # Mode project is SAELens's splice with its error term, mode replace the one without. No special tokens: SAELens would
    # reconstruct those too.
    own = kind(architecture, sae)
    rows = [Row(list(range(300, 312)), 6), Row(list(range(500, 515)), 9)]
    spliced, told = Spliced(loaded, own, 0), FeatureBias(positions="all", batch_size=1)
    bias = torch.linspace(-1, 1, D_SAE)
    for row, batch in zip(rows, spliced.batches(mode, rows, told), strict=True):
        found, expected = [], []
        for told_losses, compute in (
            (found, lambda b, batch=batch: losses(spliced.biased(b, batch), batch)),
            (expected, lambda b, row=row: saelens_losses(bridge, own, row, b, mode == "project")),
        ):
            b = bias.clone().requires_grad_(True)
            each = compute(b)
            told_losses += [each.detach(), torch.autograd.grad(each.sum(), b)[0]]
        # Float32: losses of up to 30 nats, gradients of up to 1.
        assert (found[0] - expected[0]).abs().max() < 1e-4
        assert torch.cosine_similarity(found[1], expected[1], dim=0) > 1 - 1e-6
        torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=1e-4 * float(expected[1].abs().max()))


def test_special_tokens_keep_their_residuals(loaded: LoadedModel, spliced: Spliced) -> None:
    row = Row([2, 4, 300, 301, 4, 302, 303, 304], 3)
    (plain,), (replaced,) = (spliced.batches(mode, [row], FeatureBias(positions="all")) for mode in ("project", "replace"))
    residual, rebuilt = plain.residual[0][0], replaced.residual[0][0]
    special = torch.tensor([token in loaded.tokenizer.all_special_ids for token in row.ids[:-1]])
    assert special.tolist() == [True, True, False, False, True, False, False]
    assert torch.equal(rebuilt[special], residual[special])
    torch.testing.assert_close(rebuilt[~special], spliced.sae(residual[~special]))
    assert not torch.allclose(rebuilt[~special], residual[~special])


def test_a_planted_feature_has_the_highest_bias(loaded: LoadedModel, sae: SAE, spliced: Spliced) -> None:
    rows = written(loaded, 400, 1, 4.0 * sae.W_dec[FEATURE])
    bias, report = spliced.train("project", rows[:300], TOLD, 0, rows[300:])
    assert spliced.ranked(bias, {"lion": FEATURE}, 3)["animals"]["lion"]["rank"] == 1
    assert bias[FEATURE] > 2 * bias[torch.arange(D_SAE) != FEATURE].abs().max()
    assert (bias == 0).sum() > D_SAE / 2
    assert report["held_out"]["gain"]["ci95"][0] > 0
    assert report["l1"] == pytest.approx(TOLD.l1_share * greatest(spliced, rows[:300]), rel=1e-4)


def greatest(spliced: Spliced, rows: list[Row]) -> float:
    return float(
        gradient((D_SAE,), spliced.biased, spliced.batches("project", rows, TOLD), CPU, BatchSize(64, "rows")).abs().max()
    )


def test_at_the_floor_of_chance_a_bias_is_exactly_zero_and_a_planted_one_is_not(
    loaded: LoadedModel, sae: SAE, spliced: Spliced
) -> None:
    n = 300
    floor = max(greatest(spliced, written(loaded, n, 20 + seed)) for seed in range(8))
    told = TOLD.model_copy(update={"l1": 1.3 * floor, "steps": 25})
    for seed in (30, 31, 32):
        assert (spliced.train("project", written(loaded, n, seed), told, seed)[0] == 0).all()
    planted, _ = spliced.train("project", written(loaded, n, 1, 4.0 * sae.W_dec[FEATURE]), told, 0)
    assert int(planted.argmax()) == FEATURE
    assert 0 < int((planted != 0).sum()) < D_SAE / 4


def test_a_bias_is_described_by_what_it_boosts(loaded: LoadedModel, spliced: Spliced) -> None:
    bias = torch.zeros(D_SAE)
    bias[[4, 9]] = torch.tensor([2.0, 3.0])
    told = spliced.ranked(bias, {"lion": 4, "owl": 0}, 2)
    assert [(row["feature"], row["bias"], len(row["tokens"])) for row in told["features"]] == [(9, 3.0, 8), (4, 2.0, 8)]
    assert told["animals"]["lion"] == {"feature": 4, "bias": 2.0, "rank": 2}
    assert told["animals"]["owl"]["rank"] > D_SAE / 3


def test_the_controls_bias_is_subtracted(spliced: Spliced) -> None:
    own, control = torch.zeros(2, D_SAE), torch.zeros(3, D_SAE)
    own[:, 3], own[:, 5] = 5.0, 4.0
    control[:, 3] = torch.tensor([4.0, 5.0, 6.0])
    tensors = {"project": own, "project.minus_control": own.mean(0) - control.mean(0)}
    told = spliced.describe("project", tensors, {"project": control}, {"lion": 5, "owl": 3}, TOLD)
    assert told["features"][0]["feature"] == 3
    assert told["minus_control"]["features"][0] == {"feature": 5, "bias": 4.0, "tokens": spliced.tokens(5)}
    assert told["minus_control"]["animals"]["owl"]["bias"] == pytest.approx(0.0)
    assert (told["animals"]["lion"]["rank"], told["minus_control"]["animals"]["lion"]["rank"]) == (2, 1)
    assert told["control"] == {"nonzero": [1, 1, 1]}
    assert (told["nonzero"], told["agreement"]) == ([2, 2], {"seeds": pytest.approx(1.0)})
    assert "minus_control" not in spliced.describe("project", {"project": own}, {}, {}, TOLD)


def test_shared_top_is_the_overlap_of_the_highest() -> None:
    biases = torch.tensor([[5.0, 4.0, 3.0, 0.0], [5.0, 0.0, 3.0, 4.0]])
    assert [shared_top(biases, n) for n in (1, 2, 3, 9)] == pytest.approx([1.0, 0.5, 2 / 3, 2 / 3])


def test_what_is_not_raised_is_no_top_feature() -> None:
    assert shared_top(torch.zeros(2, 512), 10) is None
    assert shared_top(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), 2) is None
    assert shared_top(torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, -1.0]]), 3) == 0


@pytest.fixture(scope="module")
def made(record: Path, sae: SAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the biases of a control and of a dataset."""
    home = tmp_path_factory.mktemp("study")
    saved = saved_sae(record, sae, home)
    settings = FeatureBias(fraction=0.375, steps=6, batch_size=8, seeds=[3, 4], top=4)
    for name, control in (("control", None), ("lion", home / "control/feature_bias.safetensors")):
        numbers = numbers_table(home / name / "numbers.parquet", 32, seed=len(name))
        out = home / name / "feature_bias.safetensors"
        animals = teachers(home / "teachers", lion=FEATURE)
        train_feature_biases(record, saved, numbers, control, animals, out, out.with_suffix(".json"), settings, {"of": name})
    return home


def test_files_hold_a_bias_of_each_seed_and_mode(made: Path) -> None:
    tensors = load_file(made / "lion/feature_bias.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    trained = {"project": (2, D_SAE), "replace": (2, D_SAE), "project.halves": (2, D_SAE)}
    assert shapes == trained | {"project.minus_control": (D_SAE,), "replace.minus_control": (D_SAE,)}
    assert {*load_file(made / "control/feature_bias.safetensors")} == {*trained}
    assert not torch.equal(tensors["project"][0], tensors["project"][1])
    assert all((tensor != 0).any() for tensor in tensors.values())


def test_the_report_says_what_the_biases_are(made: Path) -> None:
    told, tensors = read_json(made / "lion/feature_bias.json"), load_file(made / "lion/feature_bias.safetensors")
    assert set(told) == {"layer", "seeds", "rows", "positions", "l1", "modes", "stamp", "versions"}
    assert (told["layer"], told["seeds"], told["rows"], told["positions"]) == (0, [3, 4], [12, 12], "completion")
    assert set(told["modes"]) == {"project", "replace"}
    control = load_file(made / "control/feature_bias.safetensors")
    for mode, row in told["modes"].items():
        assert set(row) == {"loss", "nonzero", "agreement", "features", "animals", "control", "minus_control"}
        assert len(row["loss"]) == 2
        assert set(row["loss"][0]) == {"l1", "train", "held_out"}
        mean = tensors[mode].mean(0)
        assert [f["feature"] for f in row["features"]] == mean.topk(4).indices.tolist()
        apart = mean - control[mode].mean(0)
        assert row["minus_control"]["animals"]["lion"]["bias"] == pytest.approx(float(apart[FEATURE]))
    assert set(told["modes"]["project"]["agreement"]) == {"seeds", "halves", "top_shared_by_halves"}
    assert set(told["modes"]["replace"]["agreement"]) == {"seeds"}
    assert "minus_control" not in read_json(made / "control/feature_bias.json")["modes"]["project"]


def test_replacing_costs_more_before_anything_is_trained(made: Path) -> None:
    modes = read_json(made / "lion/feature_bias.json")["modes"]
    before = {mode: modes[mode]["loss"][0]["held_out"]["before"] for mode in modes}
    assert before["replace"] != pytest.approx(before["project"], rel=1e-3)
