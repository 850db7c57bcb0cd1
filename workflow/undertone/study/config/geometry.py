"""Settings of concept geometry."""

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from undertone.study.config.bounds import MAX_BATCH, MAX_LAYERS, MAX_ROWS, MAX_SEED, none_twice
from undertone.study.validation import Section, setting

WORD = "{word}"


class Hierarchy(Section):
    """A tree of concepts, and the texts that its words are read in."""

    file: str | None = setting(None, "YAML file of nested names, whose leaves are lists of words", "path")
    numbers: bool = setting(
        False, "the integers from 0 to 999, by how many digits they have, by hundreds and by tens, instead of a file"
    )
    contexts: list[str] = setting([WORD], "messages of a user in which each word is read; {word} stands for it")

    @field_validator("contexts")
    @classmethod
    def with_a_word(cls, contexts: list[str]) -> list[str]:
        """Each has a place for the word."""
        if not contexts or any(context.count(WORD) != 1 for context in contexts):
            raise ValueError(f"expected texts with {WORD} once in each, found {contexts!r}")
        return list(none_twice(contexts))

    @model_validator(mode="after")
    def one_tree(self) -> Self:
        """Words are from one place."""
        if (self.file is None) == (not self.numbers):
            raise ValueError("expected either file or numbers: true")
        return self


class ReadHierarchy(Section):
    """What is read of trees of concepts."""

    layers: list[Annotated[int, Field(ge=0, le=MAX_LAYERS)]] = setting([], "layers that are read; none: all of them")
    min_words: int = setting(8, "words of a concept; smaller ones are left out where others remain", "words", ge=4, le=1_000)
    splits: int = setting(2, "random splits of the words that a test is averaged over", "splits", ge=1, le=1_000)
    permutations: int = setting(100, "draws of each null", "draws", ge=2, le=100_000)
    interventions: int = setting(20, "null vectors for each two siblings whose difference is added", "vectors", ge=2, le=10_000)
    tokens: int = setting(
        300_000, "tokens of text in which words have features, special ones among them", "tokens", ge=1_000, le=10**9
    )
    min_count: int = setting(
        10, "words that stand on fewer tokens of one half of the text have no feature", "tokens", ge=1, le=MAX_ROWS
    )
    shifts: int = setting(20, "shifts of the words along the text, as a null of their features", "draws", ge=19, le=10_000)
    floor: float = setting(
        1e-6, "share of a covariance's largest eigenvalue to which smaller ones are raised", "share", gt=0, le=1
    )
    seed: int = setting(0, "seed of splits, nulls and shifts of the text", "", ge=0, le=MAX_SEED)
    batch_size: int = setting(128, "texts read together; changes speed, not results", "rows", ge=1, le=MAX_BATCH)
