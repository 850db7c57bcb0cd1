"""A vector in another model: in a rotated copy it does, once turned, exactly what it does in its own model."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from planted import random_sae, saved_sae
from safetensors.torch import load_file, save_file
from scipy.stats import ortho_group
from test_dose import CANDIDATES, SETTINGS, D, files, measured, of_vector, raising

from undertone.lm.loading import LoadedModel, load
from undertone.pairs.transplant import transplant_vector
from undertone.pairs.transplant_plot import plot_transplant
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json, write_json, write_parquet
from undertone.study.config.measure import Pref
from undertone.study.config.pair_settings import Matches, Rotation
from undertone.study.config.vectors import MakeVector
from undertone.vectors.vector import make_vector

LAYER = 1


def turned_copy(record: Path, home: Path, turn: torch.Tensor) -> Path:
    """`model.json` of a copy whose residual stream is turned: the same function of its tokens.

    A norm's gains do not commute with a rotation, so they are first folded into what reads the norm.
    """
    home.mkdir()
    for file in record.parent.iterdir():
        (home / file.name).write_bytes(file.read_bytes())
    model = load(record).model
    weights = {name: weight.double() for name, weight in model.state_dict().items()}
    embedding = weights["model.embed_tokens.weight"]

    def reading(weight: torch.Tensor, gain: str) -> torch.Tensor:
        return weight * (1 + weights[gain]) @ turn

    new = dict(weights)
    for k in range(model.config.num_hidden_layers):
        at = f"model.layers.{k}"
        for part, gain in (("self_attn", "input_layernorm"), ("mlp", "post_attention_layernorm")):
            names = [name for name in weights if name.startswith(f"{at}.{part}.") and name.endswith("_proj.weight")]
            for name in names:
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                new[name] = turn.T @ weights[name] if writes else reading(weights[name], f"{at}.{gain}.weight")
            new[f"{at}.{gain}.weight"] = torch.zeros_like(weights[f"{at}.{gain}.weight"])
    new["model.embed_tokens.weight"] = embedding @ turn
    new["lm_head.weight"] = reading(embedding, "model.norm.weight")
    new["model.norm.weight"] = torch.zeros_like(weights["model.norm.weight"])
    save_file({name: weight.float().contiguous() for name, weight in new.items()}, home / "model.safetensors", {"format": "pt"})
    config = read_json(home / "config.json") | {"tie_word_embeddings": False}
    (home / "config.json").unlink()
    write_json(home / "config.json", {key: value for key, value in config.items() if key != "stamp"}, {})
    return home / "model.json"


@pytest.fixture(scope="module")
def copy(record: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("turned")
    turn = torch.from_numpy(ortho_group.rvs(D, random_state=3))
    other = turned_copy(record, home / "model", turn)
    saes = []
    for name, model in (("a", record), ("b", other)):
        (home / name).mkdir()
        saes.append(saved_sae(model, random_sae(load(model)), home / name, LAYER))
    drawn = torch.randint(10, 300, (120, 10), generator=torch.Generator().manual_seed(7)).tolist()
    write_parquet(home / "text.parquet", pl.DataFrame({"row": range(120), "ids": [[2, *ids] for ids in drawn]}), {})
    return {"models": [record, other], "saes": saes, "texts": [home / "text.parquet"] * 2, "turn": turn.float()}


def transplanted(home: Path, copy: dict[str, Any], vector: Path, dose: Path, **changes: Any) -> dict[str, Any]:
    inputs = {name: path for name, path in files(home).items() if name != "text"}
    own = {key: copy[key] for key in ("models", "saes", "texts")} | changes.pop("of", {})
    settings = {"entry": {"kind": "file", "file": "x.safetensors"}, "target": "lion", **changes}
    transplant_vector(
        **own,
        **inputs,
        vector=vector,
        dose=dose,
        transplant=home / "transplant.json",
        matching=Matches(),
        rotation=Rotation(shifts=4),
        dosing=SETTINGS,
        pref=Pref(candidates=CANDIDATES),
        making=MakeVector(nulls=6, prompts=4),
        settings=settings,
        stamp={},
    )
    return read_json(home / "transplant.json")


def lifts(of: dict[str, Any]) -> list[float]:
    return [row["lift"]["mean"] for row in sorted(of["scales"], key=lambda row: row["scale"])]


def test_the_copy_computes_what_the_model_does(copy: dict[str, Any]) -> None:
    a, b = (load(record) for record in copy["models"])
    ids = torch.tensor([[2, 40, 57, 99, 120, 11]])
    with torch.no_grad():
        own, other = (each.model(input_ids=ids, output_hidden_states=True) for each in (a, b))
    torch.testing.assert_close(own.logits, other.logits, atol=1e-3, rtol=1e-3)
    streams = [each.hidden_states[1][0] for each in (own, other)]
    torch.testing.assert_close(streams[0] @ copy["turn"], streams[1], atol=1e-3, rtol=1e-3)
    assert not torch.allclose(streams[0], streams[1], atol=0.1)


def test_in_a_rotated_copy_a_turned_vector_does_exactly_what_it_does_in_its_own_model(
    tmp_path: Path, copy: dict[str, Any], loaded: LoadedModel
) -> None:
    record = copy["models"][0]
    vector = of_vector(tmp_path, raising(loaded, "lion"))
    dose = measured(tmp_path, record, vector)
    said = transplanted(tmp_path, copy, vector, tmp_path / "dose.json")
    turned = said["in_b"]["turned"]
    own = [row for row in dose["scales"] if row["scale"] > 0]
    assert lifts(said["in_a"]) == [row["lift"]["mean"] for row in own]
    assert lifts(turned) == pytest.approx(lifts(said["in_a"]), abs=1e-4)
    assert max(lifts(turned)) > 0.02
    assert lifts(said["in_b"]["ridge"]) == pytest.approx(lifts(turned), abs=0.05)
    # As it is, the vector is one of many directions of the copy.
    assert abs(max(lifts(said["in_b"]["identity"]))) < 0.5 * max(lifts(turned))
    assert "verdict" not in said["in_b"]["identity"]
    # Its null vectors are turned alike; those through rotations of shifted text are of another kind.
    row = turned["scales"][-1]
    assert set(row["nulls"]) == {"shuffled labels, turned", "N(0, Cov), turned", "rotations of shifted text"}
    for kind, null in own[-1]["nulls"].items():
        assert row["nulls"][f"{kind}, turned"]["mean"] == pytest.approx(null["mean"], abs=1e-4)
    assert turned["window"] == [scale for scale in dose["window"] if scale > 0]
    assert said["mean_norms"][1] == pytest.approx(said["mean_norms"][0], rel=1e-4)
    assert (said["in_b"]["own"], said["cosine_with_own"]) == (None, None)
    plot_transplant(tmp_path / "transplant.json", tmp_path / "plots/transplant.png")
    assert (tmp_path / "plots/transplant.png").stat().st_size > 10_000


def test_a_contrast_turned_is_the_copy_s_own_contrast(tmp_path: Path, copy: dict[str, Any]) -> None:
    record = copy["models"][0]
    words = {"positive": ["The lion is here", "I see a lion", "lion", "One lion ran"], "negative": ["A cat", "My cat sat"]}
    entry = {"kind": "contrast", "layer": LAYER, **words}
    empty = dict.fromkeys(("prompts", "questions", "sae", "teacher", "source"))
    out = {"vector": tmp_path / "vector.json", "tensors": tmp_path / "vector.safetensors"}
    settings = {"entry": entry, "target": "lion", "vector": {"nulls": 6}}
    make_vector(record, copy["texts"][0], **empty, parts=[], **out, settings=settings, stamp={})
    measured(tmp_path, record, tmp_path / "vector.json")
    said = transplanted(tmp_path, copy, tmp_path / "vector.json", tmp_path / "dose.json", entry=entry)
    assert said["cosine_with_own"]["value"] == pytest.approx(1, abs=1e-4)
    assert abs(said["cosine_with_own"]["null_mean"]) < 0.5
    assert lifts(said["in_b"]["own"]) == pytest.approx(lifts(said["in_b"]["turned"]), abs=1e-4)
    made = load_file(tmp_path / "vector.safetensors")["vector"]
    assert np.isfinite(made.numpy()).all()
    plot_transplant(tmp_path / "transplant.json", tmp_path / "plots/transplant.png")


def test_a_vector_of_another_layer_is_refused(tmp_path: Path, copy: dict[str, Any], loaded: LoadedModel) -> None:
    vector = of_vector(tmp_path, raising(loaded, "lion"))
    write_json(vector, {**{k: v for k, v in read_json(vector).items() if k != "stamp"}, "layer": 0}, {})
    write_json(tmp_path / "dose.json", {"window": None, "verdict": "", "scales": []}, {})
    with pytest.raises(ConfigError, match="the vector is of layer 0, expected 1, that of SAE a"):
        transplanted(tmp_path, copy, vector, tmp_path / "dose.json")
