"""What a vector does downstream: nothing at size 0, itself where no layer follows, and what a planted layer computes of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from planted import saved_sae
from sae_lens import SAE, StandardSAE, StandardSAEConfig
from safetensors.torch import save_file
from scipy.stats import kstest
from test_dose import files, noise

from undertone.lm.chat import prompt_ids
from undertone.lm.hooks import rewritten
from undertone.lm.loading import LoadedModel, load
from undertone.lm.sampling import Sampler, sample
from undertone.lm.steering import Steering, steered
from undertone.lm.training import collate
from undertone.runtime.files import read_json, write_json
from undertone.study.config.vectors import Downstream
from undertone.vectors.downstream import read_downstream
from undertone.vectors.downstream_plot import plot_downstream
from undertone.vectors.forced import Tokens, batches, continued, run_once
from undertone.vectors.null_scores import against_nulls

D = 32
COMPUTED = 7
SETTINGS = Downstream(rows=8, new_tokens=3, top=5)


def orthogonal_sae(seed: int = 5) -> SAE[Any]:
    """An SAE whose features are orthogonal directions, each with its own activation."""
    rows = torch.linalg.qr(noise(seed, D, D))[0]
    sae = StandardSAE(StandardSAEConfig(d_in=D, d_sae=D, apply_b_dec_to_input=False)).requires_grad_(False)
    sae.load_state_dict({"W_dec": rows, "W_enc": rows.T, "b_dec": -30 * rows.sum(0), "b_enc": torch.full((D,), 30.0)})
    return sae


def of_layer(
    home: Path, vector: torch.Tensor, layer: int, size: float, nulls: torch.Tensor, positions: str = "completion"
) -> dict[str, Path]:
    """`vector.json`, and a `dose.json` whose window is one size."""
    save_file({"vector": vector, "null": nulls, "gaussian": nulls[:0]}, home / "vector.safetensors")
    said = {"target": "lion", "layer": layer, "positions": positions, "mean_norm": 1.0, "norm": float(vector.norm())}
    write_json(home / "vector.json", {**said, "null": {"of": "shuffled labels"} if len(nulls) else None}, {})
    write_json(home / "dose.json", {"window": [size]}, {})
    return {"vector": home / "vector.json", "dose": home / "dose.json"}


def read(
    home: Path, record: Path, given: dict[str, Path], saes: dict[str, Path], settings: Downstream = SETTINGS
) -> tuple[dict[str, Any], pl.DataFrame]:
    inputs = {name: path for name, path in files(home).items() if name != "text"}
    out = {"downstream": home / "downstream.json", "table": home / "downstream.parquet"}
    read_downstream(record, **inputs, **given, **out, saes=saes, settings=settings, used_prompts=0, stamp={})
    return read_json(home / "downstream.json"), pl.read_parquet(home / "downstream.parquet")


def saes_at(home: Path, record: Path, *layers: int) -> dict[str, Path]:
    made = {}
    for layer in layers:
        (home / f"of{layer}").mkdir()
        made[f"sae-layer{layer}"] = saved_sae(record, orthogonal_sae(5 + layer), home / f"of{layer}", layer)
    return made


def test_nothing_added_changes_nothing(tmp_path: Path, record: Path) -> None:
    given = of_layer(tmp_path, noise(3, D), 0, 0.0, noise(4, 5, D))
    said, table = read(tmp_path, record, given, saes_at(tmp_path, record, 0, 1))
    assert table["delta"].abs().max() == 0
    assert table["carried"].abs().max() == 0
    assert set(table["q"]) == {1.0}
    assert (table["appeared"].max(), table["vanished"].max()) == (0, 0)
    assert said["kl"]["value"] == 0
    assert [each["svd"] for each in said["layers"]] == [None, None]
    assert all(each["moved_t"] == 0 and each["top"] == [] for each in said["saes"])


def test_where_no_layer_follows_all_is_carried(tmp_path: Path, record: Path) -> None:
    given = of_layer(tmp_path, noise(3, D), 1, 2.0, noise(4, 5, D))
    said, table = read(tmp_path, record, given, saes_at(tmp_path, record, 1))
    np.testing.assert_allclose(table["delta"], table["carried"], atol=1e-5)
    [layer] = said["layers"]
    assert layer["carried"] == pytest.approx(1, abs=1e-4)
    assert layer["share"] == pytest.approx(1, abs=1e-4)
    assert layer["cosine"] == pytest.approx(1, abs=1e-4)
    assert layer["svd"]["share"] == pytest.approx(1, abs=1e-4)
    assert layer["svd"]["cosine"] == pytest.approx(1, abs=1e-4)
    assert said["saes"][0]["carried_correlation"] == pytest.approx(1, abs=1e-4)
    # An orthogonal SAE is exact where all of its features are active.
    assert said["saes"][0]["base"]["explained_variance"] > 0.9
    assert said["kl"]["value"] > 0


def test_at_a_prompts_last_token_alone_all_is_carried_there_and_the_rest_of_the_answer_stays(
    tmp_path: Path, record: Path
) -> None:
    given = of_layer(tmp_path, noise(3, D), 1, 2.0, noise(4, 5, D), "last")
    said, table = read(tmp_path, record, given, saes_at(tmp_path, record, 1))
    [layer] = said["layers"]
    for name in ("carried", "share", "cosine"):
        assert layer[name] == pytest.approx(1, abs=1e-4)
    assert layer["svd"]["cosine"] == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(table["delta"], table["carried"], atol=1e-5)
    of = {position: table.filter(position=position)["delta"].abs() for position in ("last", "continuation")}
    assert of["last"].max() > 0.1  # type: ignore[operator]
    # Nothing is added behind it, and no layer follows that could read it from there.
    assert of["continuation"].max() == 0


@contextmanager
def computing(loaded: LoadedModel, of: torch.Tensor, into: torch.Tensor) -> Iterator[None]:
    """Inside, layer 1 also writes twice what the stream has along `of` after layer 0 along `into`."""
    seen: list[torch.Tensor] = []

    def look(residual: torch.Tensor) -> torch.Tensor:
        seen[:] = [residual]
        return residual

    def write(residual: torch.Tensor) -> torch.Tensor:
        # The steering hook of layer 0 has run by then, as layer 1 comes after all hooks of layer 0.
        return residual + 2 * (seen[0] @ of).unsqueeze(-1) * into

    with of_last(loaded, look), rewritten(loaded.model, 1, write):
        yield


@contextmanager
def of_last(loaded: LoadedModel, look: Any) -> Iterator[None]:
    """Inside, `look` sees what enters layer 1, as all hooks of layer 0 have left it."""
    from undertone.lm.hooks import decoder_layers

    def hook(module: Any, args: Any) -> None:
        look(args[0])

    with decoder_layers(loaded.model)[1].register_forward_pre_hook(hook):
        yield


def test_a_planted_computation_appears_where_addition_alone_shows_nothing(
    tmp_path: Path, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = load(record)
    monkeypatch.setattr("undertone.vectors.downstream.load", lambda path: own)
    before, after = orthogonal_sae(5), orthogonal_sae(6)
    of, into = before.W_dec[3].clone(), after.W_dec[COMPUTED].clone()
    # Null vectors that are not along what the layer reads.
    nulls = noise(4, 12, D)
    nulls -= (nulls @ of).unsqueeze(-1) * of
    given = of_layer(tmp_path, of, 0, 10.0, nulls)
    with computing(own, of, 5 * into):
        said, table = read(tmp_path, record, given, saes_at(tmp_path, record, 1))
    [sae] = said["saes"]
    assert sae["top"][0]["feature"] == COMPUTED
    row = table.filter(pl.col("position") == "all").row(COMPUTED, named=True)
    assert row["delta"] == pytest.approx(2 * 10 * 5, rel=0.2)
    assert abs(row["carried"]) < 0.2 * row["delta"]
    assert row["p_family"] == pytest.approx(1 / 13)
    assert row["q"] < 1e-3
    assert sae["beyond_nulls"] == 0  # of twelve null vectors no p is as small as .05
    plot_downstream(tmp_path / "downstream.json", tmp_path / "vector-lion/plots/downstream.png")
    assert (tmp_path / "vector-lion/plots/downstream.png").stat().st_size > 10_000


def test_without_saes_and_nulls_the_layers_are_still_read(tmp_path: Path, record: Path) -> None:
    given = of_layer(tmp_path, noise(3, D), 0, 2.0, noise(4, 0, D))
    said, table = read(tmp_path, record, given, {})
    assert (len(table), said["saes"], said["null_vectors"]) == (0, [], 0)
    assert "nulls" not in said["layers"][0]
    assert [each["layer"] for each in said["layers"]] == [0, 1]
    plot_downstream(tmp_path / "downstream.json", tmp_path / "vector-lion/plots/downstream.png")


def test_what_is_chosen_is_chosen_on_other_prompts(tmp_path: Path, record: Path) -> None:
    given = of_layer(tmp_path, noise(3, D), 0, 2.0, noise(4, 5, D))
    _, table = read(tmp_path, record, given, saes_at(tmp_path, record, 1))
    assert not np.allclose(table["z_choosing"], table["z_null"])


PROMPTS = ["Which animal?", "Name one of them now.", "Give numbers."]


def test_a_continuation_is_the_models_own_and_read_as_while_it_was_written(loaded: LoadedModel) -> None:
    """Steering while generating, under a KV cache, is what teacher forcing of the same tokens sees at once."""
    prompts = prompt_ids(loaded.tokenizer, PROMPTS)
    rows = continued(loaded, prompts, 4)
    for row, prompt in zip(rows, prompts, strict=True):
        ids = list(prompt)
        for token in row.ids[len(prompt) : -1]:
            with torch.no_grad():
                assert token == int(loaded.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)
    vector = 3 * noise(9, D)
    steering = Steering("add", vector, 0, completion=True)
    with steered(loaded, steering):
        written = dict(
            pair
            for part in sample(loaded.model, prompts, Sampler(1e-6, 4, [], loaded.pad_id, 0), 2)
            for pair in zip(part[0], part[1], strict=True)
        )
    forced = [type(rows[0])([*prompt, *written[k].ids, 4], len(prompt)) for k, prompt in enumerate(prompts)]
    for row, batch in zip(forced, batches(loaded, forced[:1]) + batches(loaded, forced[1:2]), strict=False):
        seen = run_once(loaded, batch, [0, 1], steering).log_probs.argmax(-1).tolist()
        assert seen[:4] == row.ids[row.start : -1]


def test_classes_of_tokens_are_those_that_predict_an_answer() -> None:
    rows = [[2, 5, 6, 7, 8, 4], [2, 5, 4]]
    from undertone.lm.chat import Row

    batch = collate([Row(rows[0], 3), Row(rows[1], 2)], 0, "cpu")
    at = Tokens.of(batch)
    assert (at.row.tolist(), at.last.tolist()) == ([0, 0, 0, 1], [True, False, False, True])
    means = at.means(torch.tensor([[1.0], [2.0], [6.0], [5.0]]))
    assert means["last"].flatten().tolist() == [1, 5]
    assert means["continuation"].flatten().tolist() == [4, 5]
    assert means["all"].flatten().tolist() == [3, 5]


def test_where_a_vector_is_one_of_the_null_its_p_is_uniform() -> None:
    rng = np.random.default_rng(0)
    scale = rng.exponential(size=40)
    values = []
    for _ in range(200):
        drawn = rng.standard_normal((20, 40)) * scale * (rng.random((20, 40)) < 0.3)
        values.append(against_nulls(drawn[0], drawn[1:]).p_family.min())
    assert kstest(np.array(values) - rng.random(200) / 20, "uniform").pvalue > 0.01


def test_a_feature_that_no_null_vector_moves_has_a_score() -> None:
    nulls = np.random.default_rng(1).standard_normal((9, 6))
    nulls[:, 2] = 0
    scores = against_nulls(np.array([0, 0, 3.0, 0, 0, 0]), nulls)
    assert np.isfinite(scores.z).all()
    assert scores.z[2] > 2
    assert np.abs(against_nulls(np.zeros(6), np.zeros((9, 6))).z).max() == 0
