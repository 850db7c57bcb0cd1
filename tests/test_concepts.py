"""Files of concepts, and which tokens of a text hold which."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from undertone.lab.marks import Text, behind, marked
from undertone.models.concepts import read_concepts
from undertone.runtime.errors import ConfigError
from workflow import REPOSITORY

TEXTS = ["<bos>", "The ", "l", "ions", " ate", " 1", "2", "3", ",", " a", " lion", ".", "Do", " you", "?", "s "]
CONTEXTS = [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [0, 12, 13, 14, 0, 12, 10, 15]]


def held(tmp_path: Path, entries: dict[str, Any]) -> dict[str, list[int]]:
    """By concept the tokens that hold it, counted through both contexts."""
    path = tmp_path / "concepts.yaml"
    path.write_text(yaml.safe_dump(entries))
    concepts = read_concepts(path, "specificity.concepts")
    table = marked(Text.of(CONTEXTS, TEXTS, {0}), concepts)
    return {name: np.flatnonzero(table[:, k]).tolist() for k, name in enumerate(concepts)}


def test_a_word_is_held_by_the_token_that_ends_it_and_of_a_plural_its_stem(tmp_path: Path) -> None:
    own = held(tmp_path, {"animal": {"words": ["lion", "owl"], "each": True}, "you": {"words": ["YOU"]}})
    # "l" + "ions": the stem ends in the second; " lion" + "s " is a plural, too.
    assert own == {"animal": [3, 10, 18], "lion": [3, 10, 18], "owl": [], "you": [14]}


def test_tokens_are_compared_as_they_stand_without_white_space(tmp_path: Path) -> None:
    own = held(tmp_path, {"animal": {"tokens": ["lion"]}, "some": {"tokens": ["do", ","], "each": True}})
    assert own == {"animal": [10, 18], "some": [8, 13, 17], "do": [13, 17], ",": [8]}


def test_a_pattern_is_held_by_the_token_that_ends_its_match_or_by_all_of_it(tmp_path: Path) -> None:
    own = held(tmp_path, {"number": {"regex": r"\d+"}, "all": {"regex": r"\d+", "span": True}, "no": {"regex": r"\?\s*D"}})
    assert own == {"number": [7], "all": [5, 6, 7], "no": [17]}


def test_no_pattern_that_stays_in_its_line_crosses_a_special_token(tmp_path: Path) -> None:
    own = held(tmp_path, {"across": {"regex": r"\?[^\n]*Do"}, "start": {"regex": r"(?m)^Do"}})
    assert own == {"across": [], "start": [13, 17]}


def test_what_is_within_some_tokens_behind_stays_in_its_context(tmp_path: Path) -> None:
    assert held(tmp_path, {"near": {"words": ["lion"], "within": 3}})["near"] == [3, 4, 5, 6, 10, 11, 18, 19]
    first, table = np.array([0, 4]), np.array([True, False, False, True, False, False])
    assert behind(table, 1, first).tolist() == [True, True, False, True, False, False]
    assert behind(table, 0, first).tolist() == table.tolist()


BAD: list[tuple[Any, str]] = [
    ({}, "holds no concept"),
    ([], "holds no concept"),
    ({"a": {"regex": "("}}, r"a of .*: '\(' is no regular expression \(.*\); correct it"),
    ({"a": {"regex": 3}}, "3 is no regular expression"),
    ({"a": {"words": ["x"], "regex": "x"}}, "exactly one of words, tokens, regex"),
    ({"a": {}}, "exactly one of"),
    ({"a": "lion"}, "exactly one of"),
    ({"a": {"words": []}}, "words must be a list of at least one text"),
    ({"a": {"words": ["no", False]}}, "yes, no, on and off need quotes"),
    ({"a": {"words": ["two words"]}}, "'two words' is no single word"),
    ({"a": {"words": ["x"], "withn": 2}}, "unknown key 'withn'.*within"),
    ({"a": {"words": ["x"], "within": -1}}, "from 0 to 1000"),
    ({"a": {"words": ["x"], "within": True}}, "from 0 to 1000"),
    ({"a": {"words": ["x"], "span": True}}, "span is of a regex"),
    ({"a": {"words": ["x"], "group": False}}, "group is the name of a kind of concepts, .*found False"),
    ({"a": {"regex": "x", "span": "yes"}}, "span true or false"),
    ({"a": {"words": ["a", "b"], "each": True}}, "two concepts 'a'"),
]


@pytest.mark.parametrize(("entries", "sentence"), BAD)
def test_a_bad_entry_is_named(entries: Any, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "concepts.yaml"
    path.write_text(yaml.safe_dump(entries))
    with pytest.raises(ConfigError, match=f"^specificity.concepts: .*{sentence}"):
        read_concepts(path, "specificity.concepts")


def test_the_shipped_concepts_are_read(tmp_path: Path) -> None:
    concepts = read_concepts(REPOSITORY / "config/prompts/concepts.yaml", "specificity.concepts")
    assert {"animal", "lion", "number", "question", "persona"} <= set(concepts)
    groups = [concepts[name].group for name in ("lion", "two digits", "colon", "persona")]
    assert groups == ["animals", "numbers", "signs", None]
