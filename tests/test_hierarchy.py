"""The stage on the embedded model's like: every word where it stands, every space, and what the figure draws."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.numpy import load_file

from undertone.geometry.hierarchy import read_hierarchy
from undertone.geometry.spaces import located, residuals
from undertone.lm.chat import Row
from undertone.lm.hooks import resid_post
from undertone.lm.loading import LoadedModel
from undertone.lm.training import collate
from undertone.plots.geometry_plots import TESTS, plot_hierarchy
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json
from undertone.study.config.geometry import ReadHierarchy

CONTEXTS = ["{word}", "You love {word}s.", "Think of the {word} when you answer."]
FEW = ReadHierarchy(permutations=3, splits=1)
ANIMALS = {
    "hunter": ["lion", "tiger", "wolf", "fox"],
    "other": {"bird": ["owl", "eagle", "penguin", "parrot"], "water": ["whale", "shark", "dolphin", "turtle"]},
}


def test_a_word_is_read_at_its_own_token_in_every_context(loaded: LoadedModel) -> None:
    """Behind a word may stand white space that belongs to its token; a token of it alone is another one."""
    words = located(loaded, ["lion", "owl", "no such word"], CONTEXTS)
    assert (words.kept, list(words.dropped)) == ([0, 1], ["no such word"])
    assert words.tokens.shape == (3, 2)
    streams, _ = residuals(loaded, words, [1], 2)
    expected = torch.zeros(2, loaded.model.config.hidden_size, dtype=torch.float64)
    for context, own in zip(words.rows, words.tokens, strict=True):
        for k, (ids, token) in enumerate(zip(context, own, strict=True)):
            assert loaded.tokenizer.decode([token]).strip() == ["lion", "owl"][k]
            batch = collate([Row(ids, len(ids))], loaded.pad_id, "cpu")
            expected[k] += resid_post(loaded.model, 1, batch)[0, len(ids) - 1 - ids[::-1].index(token)].double() / 3
    np.testing.assert_allclose(streams[0], expected.numpy(), atol=1e-5)


def read(record: Path, folder: Path, settings: ReadHierarchy) -> None:
    places = [folder / name for name in ("tree.yaml", "geometry.json", "vectors.safetensors")]
    read_hierarchy(record, None, None, *places, CONTEXTS, settings, 10, {})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, record: Path) -> Path:
    folder = tmp_path_factory.mktemp("geometry")
    (folder / "tree.yaml").write_text(yaml.safe_dump(ANIMALS))
    read_hierarchy(
        record,
        None,
        None,
        folder / "tree.yaml",
        folder / "geometry.json",
        folder / "vectors.safetensors",
        CONTEXTS,
        FEW,
        10,
        {},
    )
    plot_hierarchy(folder / "geometry.json", folder / "vectors.safetensors", folder / "geometry.png")
    return folder


def test_every_space_has_every_test_beside_its_nulls(made: Path) -> None:
    result = read_json(made / "geometry.json")
    assert [each["name"] for each in result["sets"]] == ["all words", "hunter", "other", "bird", "water"]
    assert result["underpowered"]
    assert result["decoder"] is None
    assert result["words"] == {"given": 12, "read": 12, "dropped": {}}
    for space in result["spaces"].values():
        assert set(space["tests"]) == set(TESTS)
        for test in space["tests"].values():
            assert set(test["nulls"]) == set(result["nulls"])
            assert (test["value"] is None) == (test["nulls"]["words"]["p"] is None)
    # No concept has three below it.
    assert result["spaces"]["unembedding"]["tests"]["simplex"]["value"] is None
    assert result["interventions"]["pairs"] == 2
    assert {*result["interventions"]["layers"]} == {"0", "1"}
    for layer in result["interventions"]["layers"].values():
        assert all(each["value"] is not None and 0 < each["null"]["p"] <= 1 for each in layer.values())
    vectors = load_file(made / "vectors.safetensors")
    for name in result["spaces"]:
        assert len(vectors[name]) == 5
        assert vectors[f"{name}.cosines"].shape == vectors[f"{name}.exchanged"].shape == (5, 5)


def test_the_figure_names_its_tests_and_says_that_few_words_say_little(made: Path) -> None:
    said = Image.open(made / "geometry.png").text["Description"]  # type: ignore[attr-defined]
    assert all(label in said.replace("\n", " ") for label in TESTS.values())
    assert "underpowered" in said
    assert "hunter" in said
    assert "rise of words' log-probability, nats" in said


def test_words_of_which_none_is_a_token_are_refused(tmp_path: Path, record: Path) -> None:
    (tmp_path / "tree.yaml").write_text(yaml.safe_dump({"a": ["no such word", "nor this"], "b": ["or that"]}))
    with pytest.raises(ConfigError, match=r"0 of 3 words are one token of this model"):
        read_hierarchy(
            record, None, None, tmp_path / "tree.yaml", tmp_path / "a.json", tmp_path / "a.safetensors", CONTEXTS, FEW, 10, {}
        )
    assert not (tmp_path / "a.json").exists()


def test_a_layer_that_the_model_does_not_have_is_refused(tmp_path: Path, record: Path) -> None:
    (tmp_path / "tree.yaml").write_text(yaml.safe_dump(ANIMALS))
    settings = ReadHierarchy(layers=[99])
    with pytest.raises(ConfigError, match=r"hierarchy\.layers 99: the model has layers 0 to"):
        read_hierarchy(
            record, None, None, tmp_path / "tree.yaml", tmp_path / "a.json", tmp_path / "b", CONTEXTS, settings, 10, {}
        )
