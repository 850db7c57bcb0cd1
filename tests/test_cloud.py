"""The cloud of activations before and after a vector: the same at size 0, only moved where nothing follows, else as planted."""

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
from test_dose import files, noise
from test_downstream import D, of_last, of_layer, saes_at

from undertone.lm.hooks import rewritten
from undertone.lm.loading import LoadedModel, load
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json
from undertone.study.config.vectors import Cloud, Downstream
from undertone.vectors.cloud import Shape, compare_clouds, compared, values
from undertone.vectors.cloud_plot import plot_cloud

READING = Downstream(rows=8, new_tokens=3)
SETTINGS = Cloud(k=5, shuffles=9)
MEASURES = {"cka", "rsa", "knn", "procrustes"}


def read(
    home: Path, record: Path, given: dict[str, Path], saes: dict[str, Path], settings: Cloud = SETTINGS
) -> tuple[dict[str, Any], pl.DataFrame]:
    inputs = {name: path for name, path in files(home).items() if name != "text"}
    out = {"cloud": home / "cloud.json", "table": home / "cloud.parquet"}
    compare_clouds(record, **inputs, **given, **out, saes=saes, reading=READING, settings=settings, used_prompts=0, stamp={})
    return read_json(home / "cloud.json"), pl.read_parquet(home / "cloud.parquet")


def test_where_nothing_is_added_clouds_are_the_same(tmp_path: Path, record: Path) -> None:
    said, table = read(
        tmp_path, record, of_layer(tmp_path, noise(3, D), 0, 0.0, noise(4, 3, D)), saes_at(tmp_path, record, 0, 1)
    )
    assert [(each["layer"], each["sae"]) for each in said["clouds"]] == [
        (0, None),
        (0, "sae-layer0"),
        (1, None),
        (1, "sae-layer1"),
    ]
    for each in said["clouds"]:
        assert set(each["measures"]) == MEASURES
        for of in each["measures"].values():
            assert of["value"] == pytest.approx(1, abs=1e-9)
            assert of["vectors"]["mean"] == pytest.approx(1, abs=1e-9)
            assert of["null_mean"] < 0.7
    assert (said["tokens"], said["null_vectors"]) == (len(table), 3)
    assert table["last"].sum() == said["rows"]


def test_what_is_added_to_all_tokens_moves_a_cloud_and_keeps_its_shape(tmp_path: Path, record: Path) -> None:
    said, _ = read(tmp_path, record, of_layer(tmp_path, noise(3, D), 0, 4.0, noise(4, 3, D)), saes_at(tmp_path, record, 0))
    own, features, behind = said["clouds"]
    assert own["measures"]["cka"]["value"] == pytest.approx(1, abs=1e-6)
    assert all(of["value"] == pytest.approx(1, abs=1e-3) for of in own["measures"].values())
    # An SAE whose features all stay active is linear, and so is what it makes of a shift.
    assert features["measures"]["cka"]["value"] == pytest.approx(1, abs=1e-3)
    assert behind["measures"]["cka"]["value"] < 1 - 1e-4
    assert all(of["p"] <= 0.2 for of in behind["measures"].values())


@contextmanager
def scrambling(loaded: LoadedModel, of: torch.Tensor) -> Iterator[None]:
    """Inside, tokens that have much along `of` before layer 1 are noise behind it."""
    seen: list[torch.Tensor] = []

    def write(residual: torch.Tensor) -> torch.Tensor:
        much = (seen[0] @ of > 30).unsqueeze(-1)
        return torch.where(much, noise(8, *residual.shape), residual)

    with of_last(loaded, lambda residual: seen.__setitem__(slice(None), [residual])), rewritten(loaded.model, 1, write):
        yield


def test_a_planted_scrambling_is_seen_behind_the_vector_and_not_behind_others(
    tmp_path: Path, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = load(record)
    monkeypatch.setattr("undertone.vectors.cloud.load", lambda path: own)
    of = torch.nn.functional.normalize(noise(3, D), dim=0)
    nulls = noise(4, 19, D)
    nulls -= (nulls @ of).unsqueeze(-1) * of
    with scrambling(own, of):
        said, _ = read(tmp_path, record, of_layer(tmp_path, of, 0, 60.0, nulls), {})
    before, behind = (each["measures"] for each in said["clouds"])
    assert all(each["value"] == pytest.approx(1, abs=1e-3) for each in before.values())
    for each in behind.values():
        assert each["vectors"]["p"] == pytest.approx(1 / 20)
        assert each["value"] < each["vectors"]["quantile_05"]
    assert abs(behind["cka"]["value"]) < 0.3
    plot_cloud(tmp_path / "cloud.json", tmp_path / "cloud.parquet", tmp_path / "vector-lion/plots/cloud.png")
    assert (tmp_path / "vector-lion/plots/cloud.png").stat().st_size > 10_000


def test_a_null_vector_among_null_vectors_has_a_uniform_p() -> None:
    rng, base = np.random.default_rng(0), np.random.default_rng(1).standard_normal((20, 6))
    shape, ps = Shape.of(base, 5), []
    for _ in range(60):
        drawn = [Shape.of(base + 0.5 * rng.standard_normal(base.shape), 5) for _ in range(10)]
        result = compared(shape, drawn[0], [values(shape, each) for each in drawn[1:]], [rng.permutation(20)] * 2)
        assert result is not None
        ps.append(result["cka"]["vectors"]["p"])
    assert 0.35 < np.mean(ps) < 0.75
    assert min(ps) == pytest.approx(0.1)


def silent_sae() -> SAE[Any]:
    """One whose features never fire."""
    sae = StandardSAE(StandardSAEConfig(d_in=D, d_sae=4, apply_b_dec_to_input=False)).requires_grad_(False)
    sae.load_state_dict(
        {"W_dec": noise(1, 4, D), "W_enc": noise(2, D, 4), "b_dec": noise(3, D), "b_enc": torch.full((4,), -1e4)}
    )
    return sae


def test_a_cloud_that_is_a_point_is_not_compared(tmp_path: Path, record: Path) -> None:
    (tmp_path / "silent").mkdir()
    saes = {"sae-silent": saved_sae(record, silent_sae(), tmp_path / "silent", 1)}
    said, _ = read(tmp_path, record, of_layer(tmp_path, noise(3, D), 1, 2.0, noise(4, 0, D)), saes)
    residuals, features = said["clouds"]
    assert features["measures"] is None
    assert "vectors" not in residuals["measures"]["cka"]
    plot_cloud(tmp_path / "cloud.json", tmp_path / "cloud.parquet", tmp_path / "vector-lion/plots/cloud.png")


def test_too_few_tokens_are_refused_with_what_to_do(tmp_path: Path, record: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"tokens predict the answers to 7 prompts, expected more than 99: raise downstream\.rows"
    ):
        read(tmp_path, record, of_layer(tmp_path, noise(3, D), 1, 2.0, noise(4, 0, D)), {}, Cloud(k=99))


def test_fewer_tokens_are_a_draw_of_all(tmp_path: Path, record: Path) -> None:
    given = of_layer(tmp_path, noise(3, D), 1, 2.0, noise(4, 0, D))
    some, _ = read(tmp_path, record, given, {}, Cloud(k=5, shuffles=2, tokens=12))
    others, _ = read(tmp_path, record, given, {}, Cloud(k=5, shuffles=2, tokens=12, seed=1))
    assert some["tokens"] == others["tokens"] == 12
    assert some["clouds"] != others["clouds"]
