"""Features that are split, on purpose, in a wider SAE; and copies in which nothing is."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from scipy.sparse import csc_matrix
from test_lab_completeness import detectors, words

from undertone.lab.splitting import Fired, compared, excess, kinds_of, make_splitting, tree
from undertone.lab.splitting_plot import plot_splitting
from undertone.lm.loading import load
from undertone.runtime.files import read_json, write_json, write_parquet
from undertone.study.config.lab import Splitting

SETTINGS = Splitting(min_count=1)
N, D, TOKENS = 8, 64, 400


def small_sae(seed: int = 0) -> Fired:
    """Eight features of orthogonal rows, each of which fires on 40 tokens."""
    rng = np.random.default_rng(seed)
    rows = np.linalg.qr(rng.normal(size=(D, N)))[0].T
    fires = np.zeros((TOKENS, N))
    for j in range(N):
        fires[40 * j : 40 * j + 40, j] = 1
    return Fired(rows, csc_matrix(fires), np.ones(N, dtype=bool))


def turned(row: np.ndarray, degrees: float, seed: int) -> np.ndarray:
    """A unit row at an angle from another."""
    away = np.random.default_rng(seed).normal(size=D)
    away -= (away @ row) * row
    return np.cos(np.radians(degrees)) * row + np.sin(np.radians(degrees)) * away / np.linalg.norm(away)


def split_sae(own: Fired, split: list[int]) -> Fired:
    """The same with some features in two, ten degrees to either side, each of which fires on half of the tokens."""
    rows, columns = [], []
    fires = own.fires.toarray()
    for j in range(N):
        if j not in split:
            rows.append(own.rows[j])
            columns.append(fires[:, j])
            continue
        on = np.flatnonzero(fires[:, j])
        for k, half in enumerate((on[:20], on[20:])):
            rows.append(turned(own.rows[j], 10 if k else -10, j))
            columns.append(np.isin(np.arange(TOKENS), half).astype(float))
    return Fired(np.array(rows), csc_matrix(np.stack(columns, axis=1)), np.ones(len(rows), dtype=bool))


def test_exactly_the_features_that_were_split_are_called_so() -> None:
    own = small_sae()
    result = compared(own, split_sae(own, [2, 5]), SETTINGS)
    assert [each["parent"] for each in result["trees"]] == [2, 5]
    assert result["shares"] == {"split": 0.4, "same": 0.6, "near": 0.0, "novel": 0.0}
    assert result["split_parents"] == result["hierarchies"] == 0.25
    for each in result["trees"]:
        assert each["coverage"] == 1
        assert [child["contained"] for child in each["children"]] == [1, 1]
        assert all(child["cosine"] == pytest.approx(np.cos(np.radians(10))) for child in each["children"])
        # They lie on either side of their parent.
        first, second = (np.array(child["place"]) for child in each["children"])
        np.testing.assert_allclose(np.linalg.norm(first - second), 2 * np.sin(np.radians(10)), rtol=1e-6)


def test_of_a_copy_nothing_is_split_and_of_another_subspace_all_is_novel() -> None:
    own = small_sae()
    assert compared(own, own, SETTINGS)["shares"]["same"] == 1
    rng = np.random.default_rng(7)
    other = Fired(np.linalg.qr(rng.normal(size=(D, N)))[0].T, own.fires, own.alive)
    result = compared(own, other, SETTINGS)
    assert result["shares"]["novel"] == 1
    assert result["trees"] == []
    assert 0.2 < result["null95"] < 0.5


def test_parts_that_fire_elsewhere_are_no_hierarchy() -> None:
    own, fires = small_sae(), small_sae().fires.toarray()
    fires[:, 1] = np.roll(fires[:, 1], 200)
    children = np.array([0, 1])
    rows = np.stack([own.rows[0], turned(own.rows[0], 20, 3)])
    result = tree(0, children, own, Fired(rows, csc_matrix(fires[:, :2]), own.alive[:2]), SETTINGS)
    assert [child["contained"] for child in result["children"]] == [1, 0]
    assert (result["hierarchy"], result["coverage"]) == (False, 1)


def test_kinds_by_cosine_and_company() -> None:
    heights, siblings = np.array([0.95, 0.95, 0.8, 0.8, 0.5]), np.array([1, 2, 1, 3, 2])
    assert kinds_of(heights, siblings, SETTINGS).tolist() == ["same", "split", "near", "split", "novel"]


def test_dead_features_are_neither_parents_nor_parts() -> None:
    own = small_sae()
    large = split_sae(own, [2])
    large.alive[[0, 3]] = False  # a copy of feature 0, and one half of feature 2
    result = compared(own, large, SETTINGS)
    assert (result["alive"], result["trees"]) == (7, [])
    none = compared(own, Fired(large.rows, large.fires, np.zeros(9, dtype=bool)), SETTINGS)
    assert (none["shares"], none["trees"]) == (None, [])


def test_only_what_is_beyond_an_equal_width_counts() -> None:
    own = small_sae()
    wide, copy = compared(own, split_sae(own, [2, 5]), SETTINGS), compared(own, own, SETTINGS)
    assert excess(wide, [copy]) == {"children": 0.4, "parents": 0.25, "hierarchies": 0.25}
    assert excess(wide, [wide]) == {"children": 0, "parents": 0, "hierarchies": 0}
    assert excess(wide, []) is None


@pytest.fixture(scope="module")
def made(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An SAE, a copy of it, and one with each feature twice, from files."""
    home, loaded = tmp_path_factory.mktemp("splitting"), load(plain)
    tokens = [*words(loaded, 6)]
    sae = detectors(loaded, tokens)
    twice = detectors(loaded, [*tokens, *tokens])
    tilt = torch.nn.functional.normalize(torch.randn(6, twice.cfg.d_in, generator=torch.Generator().manual_seed(0)), dim=-1)
    twice.W_dec[:6], twice.W_dec[6:] = sae.W_dec + 0.2 * tilt, sae.W_dec - 0.2 * tilt
    for name, each in (("sae", sae), ("sae-copy", sae), ("sae-twice", twice)):
        each.save_model(home / name)
        record = {
            "source": "folder",
            "folder": str(home / name),
            "release": None,
            "id": None,
            "layer": 0,
            "hook_point": "blocks.0.hook_resid_post",
        }
        write_json(home / name / "sae.json", {**record, "d_sae": each.cfg.d_sae}, {})
    contexts = [[2, *np.roll(tokens, k).tolist()] for k in range(12)]
    write_parquet(home / "text.parquet", pl.DataFrame({"row": range(12), "ids": contexts}), {})
    others = [home / f"sae-{name}/sae.json" for name in ("copy", "twice")]
    make_splitting(plain, home / "sae/sae.json", home / "text.parquet", others, home / "splitting.json", SETTINGS, 1e9, {})
    plot_splitting(home / "splitting.json", home / "plot.png")
    return {"result": read_json(home / "splitting.json"), "texts": Image.open(home / "plot.png").info["Description"]}


def test_saes_are_compared_from_their_files(made: dict[str, Any]) -> None:
    result = made["result"]
    assert result["baselines"] == ["copy"]
    assert result["others"]["copy"]["shares"]["same"] == 1
    assert result["others"]["twice"]["shares"]["split"] == 1
    assert result["others"]["twice"]["excess"] == {"children": 1, "parents": 1, "hierarchies": 1}
    assert result["others"]["copy"]["excess"] is None


def test_the_figure_marks_the_baseline(made: dict[str, Any]) -> None:
    assert "copy\n6\nbaseline" in made["texts"]
    assert "0 → 2 of twice, which cover 100%" in made["texts"]
