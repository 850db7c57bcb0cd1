"""Settings of concept geometry."""

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from undertone.study.config.bounds import MAX_BATCH, MAX_LAYERS, MAX_ROWS, MAX_SEED, none_twice
from undertone.study.validation import Section, setting

WORD = "{word}"


class Hierarchy(Section):
    """A tree of concepts, and the texts in which its words are read."""

    file: str | None = setting(None, "YAML file of nested names, whose leaves are lists of words", "path")
    numbers: bool = setting(
        False, "instead of a file: the integers from 0 to 999, grouped by number of digits, by hundreds and by tens"
    )
    contexts: list[str] = setting([WORD], "user messages in which each word is read; {word} stands for the word")

    @field_validator("contexts")
    @classmethod
    def with_a_word(cls, contexts: list[str]) -> list[str]:
        """Require a place for the word in each text, and no text twice."""
        if not contexts or any(context.count(WORD) != 1 for context in contexts):
            raise ValueError(f"expected texts with {WORD} once in each, found {contexts!r}")
        return list(none_twice(contexts))

    @model_validator(mode="after")
    def one_tree(self) -> Self:
        """Require either a file or the integers."""
        if (self.file is None) == (not self.numbers):
            raise ValueError("expected either file or numbers: true")
        return self


class ReadHierarchy(Section):
    """How trees of concepts are read."""

    layers: list[Annotated[int, Field(ge=0, le=MAX_LAYERS)]] = setting([], "layers that are read; an empty list reads all")
    min_words: int = setting(
        8, "fewest words of a concept; smaller concepts are left out if others remain", "words", ge=4, le=1_000
    )
    splits: int = setting(2, "random splits of the words over which a test is averaged", "splits", ge=1, le=1_000)
    permutations: int = setting(100, "draws of each null", "draws", ge=2, le=100_000)
    interventions: int = setting(
        20, "null vectors for each pair of siblings whose difference is added", "vectors", ge=2, le=10_000
    )
    tokens: int = setting(
        300_000, "tokens of text on which the words' features are read, special tokens included", "tokens", ge=1_000, le=10**9
    )
    min_count: int = setting(
        10, "words that occur on fewer tokens of either half of the text get no feature", "tokens", ge=1, le=MAX_ROWS
    )
    shifts: int = setting(
        20, "shifts of the words along the text that give the null of their features", "draws", ge=19, le=10_000
    )
    floor: float = setting(
        1e-6,
        "floor of a covariance's eigenvalues, as a share of the largest; smaller ones are raised to it",
        "share",
        gt=0,
        le=1,
    )
    seed: int = setting(0, "seed of splits, nulls and shifts along the text", "", ge=0, le=MAX_SEED)
    batch_size: int = setting(128, "texts read together; affects speed and rounding only", "rows", ge=1, le=MAX_BATCH)
