"""Features put back or put in: a planted mediator is necessary and sufficient, others are neither."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from planted import saved_sae
from test_dose import CANDIDATES, files, noise, raising
from test_downstream import of_layer, orthogonal_sae

from undertone.lm.loading import LoadedModel
from undertone.runtime.files import read_json, write_json, write_parquet
from undertone.study.config.measure import Pref
from undertone.study.config.vectors import Restore
from undertone.vectors.restore import restore_features
from undertone.vectors.restore_plot import plot_restore

D = 32


def restored(
    home: Path,
    record: Path,
    sae: Any,
    vector: torch.Tensor,
    order: list[int],
    window: bool = True,
    positions: str = "completion",
    nulls: bool = True,
) -> dict[str, Any]:
    """`restore.json` of a vector after layer 1 and an SAE there whose features are ranked by hand."""
    given = of_layer(home, vector, 1, 3.0, noise(4, 5, D), positions)
    write_json(home / "downstream.json", {"window": window, "scale": 3.0}, {})
    z = [float(len(order) - order.index(k)) if k in order else 0.1 for k in range(D)]
    table = {"sae": ["sae-own"] * D, "position": ["all"] * D, "feature": range(D), "delta": [1.0] * D}
    table |= {"z_choosing": z if nulls else [None] * D, "t": z if not nulls else [1.0] * D}
    write_parquet(home / "downstream.parquet", pl.DataFrame(table), {})
    restore_features(
        record,
        files(home)["questions"],
        given["vector"],
        home / "downstream.json",
        home / "downstream.parquet",
        {"sae-own": saved_sae(record, sae, home, 1)},
        home / "restore.json",
        Restore(features=[1, 2], controls=4),
        Pref(candidates=CANDIDATES),
        {},
    )
    return read_json(home / "restore.json")


def test_a_planted_mediator_is_necessary_and_sufficient(tmp_path: Path, record: Path, loaded: LoadedModel) -> None:
    direction = raising(loaded, "lion")
    sae = orthogonal_sae()
    # An orthogonal SAE whose feature 7 is the vector: all that the vector changes is that feature.
    basis = torch.linalg.qr(torch.cat([direction.unsqueeze(1), noise(3, D, D - 1)], dim=1))[0].T
    basis = basis * torch.sign(basis[0] @ direction)
    basis[[0, 7]] = basis[[7, 0]]
    sae.load_state_dict({**sae.state_dict(), "W_dec": basis, "W_enc": basis.T, "b_dec": -30 * basis.sum(0)})
    said = restored(tmp_path, record, sae, direction, [7, 3])
    [own] = said["saes"]
    first = own["rows"][0]
    assert first["chosen"] == [7]
    assert first["necessary"]["mean"] == pytest.approx(1, abs=1e-3)
    assert first["sufficient"]["mean"] == pytest.approx(1, abs=1e-3)
    assert abs(first["necessary"]["null_mean"]) < 1e-3
    assert abs(first["sufficient"]["null_95"]) < 1e-3
    assert own["vector_removed"]["mean"] == pytest.approx(1, abs=1e-3)
    assert said["effect"]["mean"] > 0
    plot_restore(tmp_path / "restore.json", tmp_path / "vector-lion/plots/restore.png")
    assert (tmp_path / "vector-lion/plots/restore.png").stat().st_size > 10_000


def test_without_null_vectors_features_are_ranked_by_t(tmp_path: Path, record: Path, loaded: LoadedModel) -> None:
    sae, direction = orthogonal_sae(), raising(loaded, "lion")
    (tmp_path / "none").mkdir()
    (tmp_path / "some").mkdir()
    without = restored(tmp_path / "none", record, sae, direction, [7, 3], nulls=False)
    assert without["saes"] == restored(tmp_path / "some", record, sae, direction, [7, 3])["saes"]


def test_features_that_the_vector_leaves_alone_carry_nothing(tmp_path: Path, record: Path, loaded: LoadedModel) -> None:
    direction = raising(loaded, "lion")
    sae = orthogonal_sae()
    said = restored(tmp_path, record, sae, direction, list(range(D)))
    [own] = said["saes"]
    assert own["all_features"]["necessary"]["mean"] == pytest.approx(1, abs=1e-2)
    assert own["all_features"]["sufficient"]["mean"] == pytest.approx(1, abs=1e-2)
    assert own["rows"][0]["necessary"]["mean"] < 0.9


@pytest.mark.parametrize("positions", ["completion", "last", "all"])
def test_taken_out_where_it_was_added_a_vector_has_no_effect(
    tmp_path: Path, record: Path, loaded: LoadedModel, positions: str
) -> None:
    said = restored(tmp_path, record, orthogonal_sae(), raising(loaded, "lion"), [1], positions=positions)
    assert said["saes"][0]["vector_removed"]["mean"] == pytest.approx(1, abs=1e-3)


def test_without_a_window_nothing_is_restored(tmp_path: Path, record: Path) -> None:
    said = restored(tmp_path, record, orthogonal_sae(), noise(3, D), [1], window=False)
    assert said["saes"] == []
    assert "no effect at any scale" in said["verdict"]
    plot_restore(tmp_path / "restore.json", tmp_path / "vector-lion/plots/restore.png")
