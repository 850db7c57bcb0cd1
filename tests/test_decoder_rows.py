"""Decoder rows of words' features as a space: a planted dictionary is found word by word, and its tree is seen as planted."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from PIL import Image
from planted import saved_sae
from safetensors.numpy import load_file
from scipy.sparse import csc_matrix
from test_geometry import planted, tree_of
from test_lab_completeness import detectors, words

from undertone.data.tree import Tree
from undertone.geometry import decoder_rows as module
from undertone.geometry.decoder_rows import Decoder, Features, decoder_rows, own_features, word_features
from undertone.geometry.directions import linear_discriminant
from undertone.geometry.hierarchy import read_hierarchy
from undertone.geometry.tree_tests import Space, with_nulls
from undertone.lab.firings import Firings
from undertone.lm.loading import LoadedModel, load
from undertone.plots.geometry_plots import plot_hierarchy
from undertone.runtime.files import read_json, write_parquet
from undertone.study.config.geometry import ReadHierarchy

PER_CHILD, CHILDREN, RARE = 8, 3, 2
SETTINGS = ReadHierarchy(permutations=40, splits=2, min_count=5, min_words=6)


@pytest.fixture(scope="module")
def named(plain: Path) -> dict[int, str]:
    """Words that are one token each: those of a tree, one of which has no feature."""
    return words(load(plain), 2 * CHILDREN * PER_CHILD)


@pytest.fixture(scope="module")
def tree(named: dict[int, str]) -> Tree:
    """Two kinds with three children of eight words."""
    each = iter(named.values())
    content = {f"kind{k}": {f"child{k}{c}": [next(each) for _ in range(PER_CHILD)] for c in range(CHILDREN)} for k in (0, 1)}
    return tree_of(content)


@pytest.fixture(scope="module")
def text(named: dict[int, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every word twenty times on either half, the last two words twice."""
    tokens, rng = [*named], np.random.default_rng(0)
    rows = []
    for _ in range(2):
        often = rng.permutation(np.repeat(tokens[:-RARE], 20)).tolist()
        half = [*often, *np.repeat(tokens[-RARE:], 2).tolist()]
        rows.append([half[k : k + 4] for k in range(0, len(half), 4)])
    # Behind each a token that ends the word.
    contexts = [[2, *[each for token in row for each in (token, 11)]] for pair in zip(*rows, strict=True) for row in pair]
    path = tmp_path_factory.mktemp("text") / "text.parquet"
    write_parquet(path, pl.DataFrame({"row": range(len(contexts)), "ids": contexts}), {})
    return path


def with_rows(loaded: LoadedModel, tokens: list[int], rows: np.ndarray) -> Any:
    sae = detectors(loaded, tokens)
    sae.W_dec.copy_(torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True)).float())
    return sae


def read(plain: Path, text: Path, tree: Tree, rows: np.ndarray, home: Path, tokens: list[int], **changes: Any) -> Decoder:
    loaded = load(plain)
    sae = saved_sae(plain, with_rows(loaded, tokens, rows), home)
    unembedding = Space(np.random.default_rng(9).standard_normal((len(tree.words), 32)), linear_discriminant)
    return decoder_rows(loaded, sae, text, tree, unembedding, SETTINGS.model_copy(update=changes), 1e9)


def test_a_planted_tree_of_decoder_rows_is_seen_and_random_rows_are_none(
    plain: Path, text: Path, tree: Tree, named: dict[int, str], tmp_path: Path
) -> None:
    tokens, width = [*named][1:], load(plain).model.config.hidden_size  # the first word has no feature
    rng = np.random.default_rng(1)
    truth = planted(tree, rng)[:, :width]
    for name, rows in (("planted", truth), ("random", rng.standard_normal(truth.shape))):
        (tmp_path / name).mkdir()
        made = read(plain, text, tree, rows[1:], tmp_path / name, tokens)
        assert made.said["reason"] is None
        assert made.said["words"] == {"read": 48 - 1 - RARE, "rare": RARE, "by_chance": 1, "shared": 0}
        assert made.said["features"] == {word: k for k, word in enumerate([*named.values()][1:-RARE])}
        assert made.said["f1"] == 1
        assert made.tree is not None
        assert made.tree.words == (*named.values(),)[1:-RARE]
        own = made.spaces["decoder"].x
        expected = rows[1:-RARE] / np.linalg.norm(rows[1:-RARE], axis=1, keepdims=True)
        np.testing.assert_allclose(own, expected - expected.mean(0), atol=1e-5)
        assert len(made.spaces["decoder.unembedding"].x) == len(own)
        existence = with_nulls(made.spaces["decoder"], made.tree, 0, 2, 40)[0]["existence"]
        z = existence["nulls"]["words"]["z"]
        assert (existence["value"] > 0.8 and z > 5) if name == "planted" else abs(z) < 3


def test_too_few_words_with_features_and_features_without_directions_say_so(
    plain: Path, text: Path, tree: Tree, named: dict[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(2).standard_normal((6, load(plain).model.config.hidden_size))
    (tmp_path / "few").mkdir()
    few = read(plain, text, tree, rows, tmp_path / "few", [*named][:6])
    assert (few.tree, dict(few.spaces)) == (None, {})
    # Of another model, as each processor makes it, one of the six may lack a feature of its own.
    said = r"[1-6] of 48 words have a feature of their own in this SAE, and no concept has two"
    assert re.match(said, few.said["reason"])
    (tmp_path / "none").mkdir()
    none = read(plain, text, tree, rows, tmp_path / "none", [*named][:6], min_count=1_000)
    assert none.said["words"] == {"read": 0, "rare": 48, "by_chance": 0, "shared": 0}
    assert (none.said["f1"], none.said["features"]) == (None, {})

    def refuse(*_: Any) -> None:
        raise ValueError("features have no fixed directions")

    monkeypatch.setattr(module, "directions", refuse)
    (tmp_path / "scaled").mkdir()
    assert read(plain, text, tree, rows, tmp_path / "scaled", [*named][:6]) == Decoder(
        {"reason": "features have no fixed directions"}
    )


def test_a_feature_is_of_the_word_that_it_says_best() -> None:
    of_words = Features(
        np.array([4, 4, 7, 2, 0]), np.array([0.6, 0.8, 0.9, 0.5, 0.0]), np.array([0.02, 0.02, 0.3, 0.04, 1]), [4]
    )
    assert own_features(of_words) == ([1, 3], {"rare": [4], "by_chance": [2], "shared": [0]})


def test_a_feature_that_fires_anywhere_is_no_words() -> None:
    rng = np.random.default_rng(3)
    n, n_words = 4_000, 30
    label = rng.integers(-1, n_words, n)
    acts = rng.random((n, 60)) * (rng.random((n, 60)) < 0.03)
    firings = Firings(np.arange(n), np.arange(n) // 10, csc_matrix(acts))
    by_chance = word_features(firings, label, n_words, ReadHierarchy(shifts=99, min_count=5))
    assert (by_chance.p <= 0.05).mean() < 0.2
    acts[:, 7] = (label == 3) * 2.0
    known = word_features(
        Firings(firings.place, firings.row, csc_matrix(acts)), label, n_words, ReadHierarchy(shifts=99, min_count=5)
    )
    assert (known.feature[3], known.f1[3], known.p[3]) == (7, 1, 0.01)


def test_the_result_holds_the_space_and_its_figure_shows_it(
    plain: Path, text: Path, tree: Tree, named: dict[int, str], tmp_path: Path
) -> None:
    loaded = load(plain)
    rows = np.random.default_rng(4).standard_normal((len(named), loaded.model.config.hidden_size))
    sae = saved_sae(plain, with_rows(loaded, [*named], rows), tmp_path)
    content: dict[str, Any] = {}
    for name, parent, members in zip(tree.names, tree.parents, tree.members, strict=True):
        if parent > 0:
            content.setdefault(tree.names[parent], {})[name] = [tree.words[k] for k in members]
    (tmp_path / "tree.yaml").write_text(yaml.safe_dump(content))
    settings = ReadHierarchy(permutations=3, splits=1, min_count=5, interventions=2)
    home = [tmp_path / name for name in ("geometry.json", "vectors.safetensors")]
    read_hierarchy(plain, text, sae, tmp_path / "tree.yaml", *home, ["{word}"], settings, 1e9, {})
    result, tensors = read_json(home[0]), load_file(home[1])
    counts = result["decoder"]["words"]
    assert (counts["read"] + counts["rare"], counts["by_chance"]) == (result["words"]["read"], 0)
    assert {"decoder", "decoder.unembedding", "unembedding"} <= {*result["spaces"]}
    n = len(result["decoder"]["sets"])
    assert tensors["decoder.distances"].shape == tensors["decoder.cosines"].shape == (n, n)
    assert len(tensors["decoder.unembedding"]) == n
    plot_hierarchy(*home, tmp_path / "geometry.png")
    said = Image.open(tmp_path / "geometry.png").text["Description"]  # type: ignore[attr-defined]
    assert "decoder rows of words' features" in said
