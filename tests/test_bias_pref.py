"""What the base model prefers under a bias: a planted one raises its animal, and the control's is subtracted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted import D_SAE, random_sae, saved_sae
from safetensors.torch import save_file
from torch import Tensor

from undertone.lm.answers import MIN_PROBABILITY, exact
from undertone.lm.chat import encode, prompt_ids
from undertone.lm.hooks import rewritten
from undertone.lm.loading import LoadedModel
from undertone.read.bias_pref import described, measure_biases
from undertone.read.interventions import Readings
from undertone.runtime.files import read_json, write_json
from undertone.stats.stats import difference_interval, log_odds, mean_interval
from undertone.study.config.measure import Pref

QUESTIONS = ["What is your favorite animal?", "Which animal do you love?", "Name an animal."]
ANIMALS = ["lion", "owl", "cat", "wolf"]
D_MODEL, N_LAYERS = 32, 2


def raising(loaded: LoadedModel, animal: str, times: float) -> Tensor:
    """A vector that, after the last layer, raises the logit of an animal's token."""
    (token,) = encode(loaded.tokenizer, [animal + " "])[0]
    row = (1 + loaded.model.model.norm.weight) * loaded.model.lm_head.weight[token]
    return times * row / row.norm()


def biases(folder: Path, vectors: Tensor) -> Readings:
    """The files of residual biases `[n_seeds, n_layers, d_model]`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"resid_post": vectors.contiguous()}, folder / "residual_bias.safetensors")
    write_json(folder / "residual_bias.json", {"seeds": list(range(len(vectors))), "positions": "completion"}, {})
    return folder / "residual_bias.safetensors"


@pytest.fixture(scope="module")
def measured(record: Path, loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """`bias_pref.json` of a control whose biases raise the owl, and of lion, whose biases raise the owl more than the lion."""
    home = tmp_path_factory.mktemp("study")
    (home / "questions.txt").write_text("\n".join(QUESTIONS))
    pref = Pref(candidates=ANIMALS, estimators=["sampled"])
    jitter = torch.tensor([0.9, 1.0, 1.1])[:, None, None]
    owl = torch.zeros(3, N_LAYERS, D_MODEL)
    owl[:, 1] = raising(loaded, "owl", 40.0)
    lion = owl.clone()
    lion[:, 1] += raising(loaded, "lion", 30.0)
    for name, target, vectors in (("control", None, owl), ("lion", "lion", lion)):
        control = home / "control/bias_pref.json" if name == "lion" else None
        files = (None, home / "questions.txt", None, biases(home / name, jitter * vectors), None, control)
        measure_biases(record, *files, home / name / "bias_pref.json", target, pref, {"of": name})
    return {name: read_json(home / name / "bias_pref.json") for name in ("control", "lion")}


def row_of(told: dict[str, Any], layer: int) -> dict[str, Any]:
    return next(row for row in told["biases"] if row["layer"] == layer)


def test_a_planted_bias_raises_its_animal_and_ranks_first_once_the_control_is_subtracted(measured) -> None:
    told = row_of(measured["lion"], 1)
    assert told["animals"]["lion"]["mean"] > 5 * measured["lion"]["base"]["lion"]
    # Without the control the owl, which both biases raise, would come first.
    base = measured["lion"]["base"]
    raised = {
        a: log_odds([told["animals"][a]["mean"]], MIN_PROBABILITY)[0] - log_odds([base[a]], MIN_PROBABILITY)[0] for a in ANIMALS
    }
    assert max(raised, key=lambda animal: raised[animal]) == "owl"
    assert told["rank"] == 1
    lifts = told["log_odds_lift_over_control"]
    assert max(lifts, key=lambda animal: lifts[animal]) == "lion"
    assert told["lift_over_control"]["lion"]["ci95"][0] > 0


def test_a_bias_of_nothing_changes_nothing(measured) -> None:
    told = row_of(measured["lion"], 0)
    for animal in ANIMALS:
        assert told["animals"][animal]["by_seed"] == pytest.approx([measured["lion"]["base"][animal]] * 3, rel=1e-4)
        assert told["lift_over_control"][animal]["mean"] == pytest.approx(0, abs=1e-9)
    assert (told["rank"], told["no_rank"]) == (None, "the bias is 0")


def test_a_bias_of_nothing_and_the_spliced_sae_name_nobody_whatever_the_controls_does(
    record: Path, loaded: LoadedModel, tmp_path: Path
) -> None:
    (tmp_path / "questions.txt").write_text("\n".join(QUESTIONS))
    pref = Pref(candidates=ANIMALS)
    sae = saved_sae(record, random_sae(loaded), tmp_path)
    empty, some = torch.zeros(1, D_SAE), torch.ones(1, D_SAE)
    of_dataset = {"control": {"project": empty, "replace": some}, "lion": {"project": some, "replace": empty}}
    for name, tensors in of_dataset.items():
        folder = tmp_path / name
        folder.mkdir()
        save_file(tensors, folder / "feature_bias.safetensors")
        write_json(folder / "feature_bias.json", {"seeds": [0], "positions": "completion"}, {})
        control, target = (None, None) if name == "control" else (tmp_path / "control/bias_pref.json", "lion")
        files = (sae, tmp_path / "questions.txt", folder / "feature_bias.safetensors", None, None, control)
        measure_biases(record, *files, folder / "bias_pref.json", target, pref, {})
    spliced, project, replaced = read_json(tmp_path / "lion/bias_pref.json")["biases"]
    assert set(spliced) == {"name", "layer", "animals", "mass"}
    assert 1 <= project["rank"] <= 4
    assert any(replaced["log_odds_lift_over_control"].values())
    assert (replaced["rank"], replaced["no_rank"]) == (None, "the bias is 0")


def test_equal_lifts_share_a_place_and_no_lift_at_all_names_nobody() -> None:
    control = {"animals": {animal: {"by_seed": [0.2, 0.2]} for animal in ANIMALS}}
    same = described([np.full(4, 0.2)] * 2, ANIMALS, control, "lion")
    assert same["rank"] is None
    assert same["no_rank"].startswith("no candidate's preference differs")
    assert described([np.array([0.3, 0.3, 0.2, 0.1])] * 2, ANIMALS, control, "lion")["rank"] == 1.5


def test_preferences_are_those_of_the_hooked_model_at_tokens_that_predict_an_answer(measured, loaded: LoadedModel) -> None:
    vector = 0.9 * (raising(loaded, "owl", 40.0) + raising(loaded, "lion", 30.0))
    prompts = prompt_ids(loaded.tokenizer, QUESTIONS)
    # After the last layer only the token before a prediction counts, so that a bias on every token is the same.
    with rewritten(loaded.model, 1, lambda residual: residual + vector):
        expected = exact(loaded, prompts, ANIMALS, 64).mean(0)
    told = row_of(measured["lion"], 1)
    assert [told["animals"][animal]["by_seed"][0] for animal in ANIMALS] == pytest.approx(expected.tolist(), rel=1e-3)
    base = exact(loaded, prompts, ANIMALS, 64).mean(0)
    assert [measured["lion"]["base"][animal] for animal in ANIMALS] == pytest.approx(base.tolist(), rel=1e-4)


def test_a_row_of_each_bias_with_intervals_over_its_seeds(measured) -> None:
    told = measured["lion"]
    assert set(told) == {"target", "base", "log_odds_floor", "biases", "stamp", "versions"}
    assert told["log_odds_floor"] == MIN_PROBABILITY
    assert [(row["name"], row["layer"]) for row in told["biases"]] == [("residual bias", 0), ("residual bias", 1)]
    row = row_of(told, 1)
    over_control = {"lift_over_control", "log_odds_lift_over_control", "rank", "no_rank", "unranked"}
    assert set(row) == {"name", "layer", "animals", "mass"} | over_control
    own = row["animals"]["lion"]["by_seed"]
    assert row["animals"]["lion"] == {**mean_interval(own).as_dict(), "by_seed": own}
    other = row_of(measured["control"], 1)["animals"]["lion"]["by_seed"]
    assert row["lift_over_control"]["lion"] == difference_interval(own, other).with_p()
    by_seed = np.array([row["animals"][animal]["by_seed"] for animal in ANIMALS])
    assert row["mass"] == pytest.approx(by_seed.sum(0).mean())
    assert 0 < row["mass"] <= 1
    assert set(row_of(measured["control"], 1)) == {"name", "layer", "animals", "mass"}


def test_log_odds_are_finite_and_compare_the_rare_with_the_common() -> None:
    assert np.isfinite(log_odds([0.0, 1.0], MIN_PROBABILITY)).all()
    assert log_odds([0.5], MIN_PROBABILITY)[0] == 0
    values = [np.array([0.60, 0.010]), np.array([0.62, 0.012])]
    control = {"animals": {"lion": {"by_seed": [0.55, 0.57]}, "owl": {"by_seed": [0.001, 0.001]}}}
    told = described(values, ["lion", "owl"], control, "owl")
    assert told["lift_over_control"]["lion"]["mean"] > told["lift_over_control"]["owl"]["mean"]
    assert told["rank"] == 1  # the owl's odds grew tenfold
    assert described(values, ["lion", "owl"], control, "lion")["rank"] == 2
    expected = np.mean([np.log(p / (1 - p)) for p in (0.010, 0.012)]) - np.log(0.001 / 0.999)
    assert told["log_odds_lift_over_control"]["owl"] == pytest.approx(expected)
    assert described(values, ["lion", "owl"], control, None)["rank"] is None


def test_a_candidate_that_rises_below_the_floor_has_no_lift_and_no_place() -> None:
    """From .9e-7 to 1.8e-7, of which scores that leave out what is rarer than 1e-7 see 0 and 1.8e-7."""
    candidates = ["lion", "cat", "pangolin"]
    control = {"animals": {a: {"by_seed": [p]} for a, p in zip(candidates, (0.01, 0.3, 0.0), strict=True)}}
    found = described([np.array([0.05, 0.3, 1.8e-7])], candidates, control, "lion")
    assert found["log_odds_lift_over_control"]["pangolin"] == 0
    assert (found["rank"], found["no_rank"], found["unranked"]) == (1, None, ["pangolin"])
    found = described([np.array([0.05, 0.3, 1.8e-7])], candidates, control, "pangolin")
    assert (found["rank"], found["no_rank"]) == (None, "the target lies below the floor of the log-odds")
    found = described([np.array([0.05, 1e-9, 1.8e-7])], candidates, control, "lion")
    assert (found["rank"], found["unranked"]) == (None, candidates)
