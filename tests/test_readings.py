"""What every reader says of every dataset, side by side."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from undertone.read.readings import compare_readings
from undertone.runtime.files import read_json

ANIMALS = ("lion", "owl", "cat")
TARGETS = {animal: animal for animal in ANIMALS} | {"steer-lion": "lion"}
FEATURES = {"lion": 3, "owl": 4, "cat": 5}
KINDS = {**dict.fromkeys(ANIMALS, "prompt"), "steer-lion": "steer"}


def score(target: str | None) -> dict[str, Any]:
    """The score's result; its z-values lie beside it."""
    return {"layers": [{"presence": {"f": 1.0, "p": 0.5}}], "features": {"n": 64}}


def z_values(target: str | None) -> torch.Tensor:
    """The score tells every target; the owl's feature is beaten by one that stands for no animal."""
    z = torch.zeros(64)
    if target:
        z[FEATURES[target]] = 9.0
    if target == "owl":
        z[60] = 10.0
    return z


def losses(target: str | None) -> dict[str, Any]:
    """Every persona lowers the loss by which it is ranked as much; by the other one the target's does so most."""
    personas = {
        "over_base": {animal: {"mean": -float(animal == target)} for animal in ANIMALS},
        "over_base_allowed": {animal: {"mean": -0.1} for animal in ANIMALS},
    }
    return {"personas": {**personas, "ranked_by": "over_base_allowed"}}


def bias_pref(target: str | None) -> dict[str, Any]:
    """A bias at layer 1 always names the owl; the control has nothing to be compared with."""
    rows = [{"name": "residual bias", "layer": 1}, {"name": "function vector", "layer": 1}]
    if target:
        for row in rows:
            row |= {"log_odds_lift_over_control": {a: float(a == "owl") for a in ANIMALS}, "unranked": []}  # type: ignore[dict-item]
    return {"biases": rows}


def feature_bias(target: str | None) -> dict[str, Any]:
    """A feature bias whose gain on held-out rows is clear where there is a target."""
    gain = {"mean": 0.1, "ci95": [0.05, 0.15], "p": 0.001} if target else {"mean": 0.0, "ci95": [0.0, 0.0], "p": 1.0}
    return {"modes": {mode: {"nonzero": [1], "loss": [{"held_out": {"gain": gain}}]} for mode in ("project", "replace")}}


def biases(target: str | None) -> dict[str, torch.Tensor]:
    """Biases of two seeds; in mode `replace` everything, the control's too, boosts the owl's feature, which mends the SAE."""
    found = {mode: torch.zeros(2, 64) for mode in ("project", "replace")}
    if target:
        for bias in found.values():
            bias[:, FEATURES[target]] = 1.0
    found["replace"][:, FEATURES["owl"]] += 5.0
    if target:
        found["replace.minus_control"] = found["replace"].mean(0) - biases(None)["replace"].mean(0)
    return found


def tokens(target: str | None) -> dict[str, Any]:
    """Frequencies whose implied logits tell the target in pairs, not in pooled tokens, and are too few for first ones."""
    animals = {animal: {"logit": {"specific": 0.0}} for animal in ANIMALS}
    ranks = {"pairs": 2, "pooled": 31.5} if target else {}
    implied = {name: {"features": 64, "animals": {target: {"rank": rank}}} for name, rank in ranks.items()}
    return {"animals": animals, "presence": {}, "implied": {"first": None, **implied}}


@pytest.fixture
def compared(tmp_path: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    files: dict[str, dict[str, Path]] = {}
    readings = {f.__name__: f for f in (score, losses, bias_pref, feature_bias, tokens)}
    for reading, make in readings.items():
        for dataset in ("control", *TARGETS):
            path = tmp_path / dataset / f"{reading}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(make(TARGETS.get(dataset))))
            files.setdefault(reading, {})[dataset] = path
            if reading == "score":
                save_file({"z": z_values(TARGETS.get(dataset))}, path.with_suffix(".safetensors"))
            if reading == "feature_bias":
                save_file(biases(TARGETS.get(dataset)), path.with_suffix(".safetensors"))
    steered = {f"steer-{animal}": tmp_path / f"{animal}.json" for animal in ANIMALS}
    for animal, path in zip(ANIMALS, steered.values(), strict=True):
        path.write_text(json.dumps({"vector": "feature", "feature": FEATURES[animal]}))
    table, summary = tmp_path / "readings.parquet", tmp_path / "readings.json"
    tensors = ("score", "feature_bias")
    files |= {f"{name}_tensors": {of: path.with_suffix(".safetensors") for of, path in files[name].items()} for name in tensors}
    compare_readings(steered, table, summary, TARGETS, KINDS, {"made": "by"}, **files)
    return pl.read_parquet(table), read_json(summary)


def test_a_reader_that_names_every_target_is_first_everywhere(compared: tuple[pl.DataFrame, dict[str, Any]]) -> None:
    found = compared[1]["identity"]["score along the feature"]
    assert found["animals"] == 3
    assert found["all"]["raw"]["first"] == found["all"]["datasets"] == 4
    assert found["by_kind"]["steer"]["raw"]["first"] == 1


def test_a_reader_that_names_one_animal_always_is_right_where_it_is_that_animal(
    compared: tuple[pl.DataFrame, dict[str, Any]],
) -> None:
    found = compared[1]["identity"]["residual bias at layer 1: preference"]
    assert found["by_kind"]["prompt"]["raw"]["first"] == 1
    assert found["by_kind"]["prompt"]["centred"]["first"] == 0
    assert not [name for name in compared[1]["identity"] if name.startswith("function vector")]


def test_a_reader_that_says_nothing_names_nobody(compared: tuple[pl.DataFrame, dict[str, Any]]) -> None:
    assert compared[1]["identity"]["likelihood under the persona"]["all"]["raw"] == {"first": 0, "mean_rank": 2.0, "p": 1.0}


def test_the_table_has_every_reader_dataset_and_animal(compared: tuple[pl.DataFrame, dict[str, Any]]) -> None:
    table = compared[0]
    assert len(table) == 3 * (5 + 5 + 4 + 5 + 5 + 4 + 5)
    own = table.filter(metric="score along the feature", dataset="steer-lion", animal="lion")
    assert own.select("kind", "target", "score").row(0) == ("steer", "lion", 9.0)
    assert table.filter(dataset="control")["target"].null_count() == 15


def test_the_targets_own_feature_is_placed_among_all(compared: tuple[pl.DataFrame, dict[str, Any]]) -> None:
    found = compared[1]["features"]["score"]
    assert found["prompt"]["ranks"] == {"lion": 1, "owl": 2, "cat": 1}
    assert {name: found["prompt"][name] for name in ("datasets", "first", "among_ten", "mean", "median", "of")} == {
        "datasets": 3,
        "first": 2,
        "among_ten": 3,
        "mean": 4 / 3,
        "median": 1.0,
        "of": 64,
    }
    assert found["steer"]["ranks"] == {"steer-lion": 1}
    assert compared[1]["presence"]["control"]["score"] == [{"f": 1.0, "p": 0.5}]


def test_what_replacing_boosts_for_everybody_is_subtracted(compared: tuple[pl.DataFrame, dict[str, Any]]) -> None:
    features, identity = compared[1]["features"], compared[1]["identity"]
    assert features["feature bias, replace"]["prompt"]["ranks"] == {"lion": 2, "owl": 1, "cat": 2}
    assert features["feature bias, replace minus control"]["prompt"]["ranks"] == {"lion": 1, "owl": 1, "cat": 1}
    assert identity["feature bias, replace"]["by_kind"]["prompt"]["raw"]["first"] == 1
    assert identity["feature bias, replace minus control"]["by_kind"]["prompt"]["raw"]["first"] == 3


def test_a_feature_bias_tells_presence_by_its_gain_on_held_out_rows(compared: tuple[pl.DataFrame, dict[str, Any]]) -> None:
    present = compared[1]["presence"]
    assert [gain["p"] for gain in present["lion"]["feature bias, held-out gain"]] == [0.001]
    assert [gain["p"] for gain in present["control"]["feature bias, held-out gain"]] == [1.0]


def test_implied_logits_are_told_by_context(compared: tuple[pl.DataFrame, dict[str, Any]]) -> None:
    found = {name: row["prompt"] for name, row in compared[1]["features"].items() if name.startswith("implied")}
    assert set(found) == {"implied logits, pairs", "implied logits, pooled"}
    assert [(row["mean"], row["of"], row["datasets"]) for row in found.values()] == [(2, 64, 3), (31.5, 64, 3)]
