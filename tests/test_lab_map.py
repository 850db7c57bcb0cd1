"""The map of the features: planted groups are its clusters, and noise has none that firing knows of."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from planted import random_sae
from sae_lens import SAE

from undertone.lab.map import NOISE, SCHEMA, agreement, clusters, clusters_by_chance, counted, make_map, overlap
from undertone.lab.neighbours import near
from undertone.lm.loading import load
from undertone.plots.feature_plots import plot_map
from undertone.runtime.files import read_json, write_json, write_parquet
from undertone.stats.partners import unit
from undertone.study.config.lab import Map

N, GROUPS, WIDTH = 60, 3, 32
ALIVE = np.arange(2, 2 + N)  # features 0 and 1 never fire


def rows_in_groups(spread: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = unit(rng.normal(size=(GROUPS, WIDTH)))
    return unit(np.repeat(centres, N // GROUPS, 0) + spread * rng.normal(size=(N, WIDTH)) / WIDTH**0.5)


def firing(together: np.ndarray, k: int = 5) -> pl.DataFrame:
    """A table of neighbours of features that fire together where `together` is high."""
    return near("firing", ALIVE, lambda part: together[part].copy(), k, {"null95": np.zeros(N)})


def same_group() -> np.ndarray:
    group = np.repeat(np.arange(GROUPS), N // GROUPS)
    return (group[:, None] == group) * 0.5 + np.random.default_rng(1).random((N, N)) * 0.05


def made(record: Path, home: Path, rows: np.ndarray, table: pl.DataFrame, **settings: Any) -> dict[str, Any]:
    """What `make_map` writes of an SAE with these decoder rows at those alive, and its figure."""
    sae: SAE[Any] = random_sae(load(record))
    sae.W_dec[ALIVE] = 2 * torch.tensor(rows, dtype=torch.float32)
    sae.save_model(home)
    write_json(home / "sae.json", {"source": "trained", "folder": None}, {})
    write_parquet(home / "neighbours.parquet", table, {})
    write_json(home / "neighbours.json", {"warning": "poor", "d_sae": 64, "layer": 0, "dead": 64 - N}, {})
    named = {"feature": range(64), "tokens": [[{"text": f"t{k} $", "share": 1.0}] if k > 1 else [] for k in range(64)]}
    write_parquet(home / "features.parquet", pl.DataFrame(named | {"count": [k * 10 for k in range(64)]}, strict=False), {})
    files = [home / name for name in ("sae.json", "neighbours.parquet", "neighbours.json", "map.parquet", "map.json")]
    said = make_map(*files, Map(**settings), {"of": "it"})
    plot_map(*files[3:], home / "features.parquet", home / "map.png")
    assert (home / "map.png").stat().st_size > 8_000
    return {"table": pl.read_parquet(files[3]), "summary": read_json(files[4]), "said": said}


@pytest.fixture(scope="module")
def grouped(record: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return made(record, tmp_path_factory.mktemp("map"), rows_in_groups(0.5), firing(same_group()))


def test_planted_groups_are_the_clusters_and_agree_with_co_firing(grouped: dict[str, Any]) -> None:
    table, summary = grouped["table"], grouped["summary"]
    assert table["feature"].to_list() == ALIVE.tolist()
    labels = table["cluster"].to_numpy().reshape(GROUPS, -1)
    assert [set(group.tolist()) - {NOISE} for group in labels] == [{k} for k in labels.max(1)]
    assert summary["clusters"] == GROUPS
    assert summary["noise"] < 0.2
    assert summary["co_firing"]["ami"] > 0.95 > 0.1 > summary["co_firing"]["null95"]
    assert summary["co_firing"]["p"] == 1 / 200
    assert summary["warning"] == "poor"
    kept, own = np.array(table["row"].to_list()), unit(rows_in_groups(0.5))
    assert np.abs(kept).max(1).tolist() == [127] * N
    assert np.abs(unit(kept.astype(float)) @ unit(kept.astype(float)).T - own @ own.T).max() < 0.01
    assert grouped["said"].startswith(f"{N} features in {GROUPS} clusters")


def test_the_layout_keeps_groups_apart_and_says_what_it_keeps(grouped: dict[str, Any]) -> None:
    places = grouped["table"].select("x", "y").to_numpy().reshape(GROUPS, -1, 2)
    centres = places.mean(1)
    within = np.linalg.norm(places - centres[:, None], axis=-1).mean()
    between = np.linalg.norm(centres[:, None] - centres, axis=-1)[np.triu_indices(GROUPS, 1)].min()
    assert between > 3 * within
    assert 3 * grouped["summary"]["trust_chance"] < grouped["summary"]["trust"] <= 1


def test_the_map_is_the_same_again_and_another_with_another_seed(grouped: dict[str, Any], record: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        again = made(record, tmp_path / name, rows_in_groups(0.5), firing(same_group()), seed=seed)
        assert again["table"].select("x", "y").equals(grouped["table"].select("x", "y")) == (seed == 0)
        assert again["table"]["cluster"].equals(grouped["table"]["cluster"])  # which knows nothing of the layout


def test_clusters_that_firing_does_not_know_do_not_agree() -> None:
    alone = np.random.default_rng(3).random((N, N))
    labels = clusters(rows_in_groups(0.5), 5)
    p = [agreement(labels, firing(np.random.default_rng(k).random((N, N))), ALIVE, Map())["p"] for k in range(10)]
    assert np.mean(np.array(p) < 0.05) <= 0.2
    assert agreement(np.full(N, NOISE), firing(alone), ALIVE, Map())["ami"] is None
    assert agreement(labels, firing(-alone), ALIVE, Map())["ami"] is None


def test_clusters_are_by_size_and_chance_is_beside_them() -> None:
    rows = np.concatenate([rows_in_groups(0.3)[:8], rows_in_groups(0.3)[20:40], rows_in_groups(0.3)[40:54]])
    labels = clusters(rows, 5)
    assert [set(part.tolist()) for part in (labels[:8], labels[8:28], labels[28:])] == [{2}, {0}, {1}]
    assert counted(labels) == {"clusters": 3, "noise": 0.0}
    chance = clusters_by_chance(unit(np.random.default_rng(0).normal(size=(200, WIDTH))), Map())
    assert chance["noise"] > 0.3
    assert clusters_by_chance(rows_in_groups(0.3), Map()) == clusters_by_chance(rows_in_groups(0.3), Map())


def test_trust_is_the_share_of_neighbours_kept() -> None:
    angles = np.linspace(0, 2, 40)
    arc = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert overlap(arc, arc) == 1
    rng = np.random.default_rng(0)
    shuffled = [overlap(arc, rng.permutation(arc)) for _ in range(20)]
    assert np.mean(shuffled) == pytest.approx(10 / 39, abs=0.03)


def test_of_too_few_features_there_is_no_map(record: Path, tmp_path: Path) -> None:
    few = made(record, tmp_path, rows_in_groups(0.5), firing(same_group()).filter(pl.col("feature") < 8))
    assert few["table"].schema == SCHEMA
    assert few["table"].is_empty()
    assert few["summary"]["reason"] == "6 features fire on the text, expected 10 or more"


def test_as_few_as_ten_features_have_a_map(record: Path, tmp_path: Path) -> None:
    table = firing(same_group()).filter(pl.col("feature") < 12, pl.col("neighbour") < 12)
    ten = made(record, tmp_path, rows_in_groups(0.5), table)
    assert len(ten["table"]) == 10
    assert np.isfinite(ten["table"].select("x", "y").to_numpy()).all()
