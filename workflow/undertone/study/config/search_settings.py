"""Settings of searches for features."""

from typing import Literal, Self

from pydantic import model_validator

from undertone.study.config.bounds import MAX_ROWS, MAX_SEED
from undertone.study.validation import Section, setting


class Search(Section):
    """A search for features, described by a few texts."""

    by: Literal["activation", "attribution", "influence"] = setting(
        "activation",
        "activation: features that fire on all positive texts and on no negative one; attribution: features on which `word` as "
        "the answer depends; influence: features that raise `word` when they are set high",
    )
    sae: str = setting("", "one of `saes`; empty: the study's own SAE")
    positive: list[str] = setting(..., "user messages", min_length=1)
    negative: list[str] = setting(
        [],
        "activation: user messages on which the features must not fire; attribution, influence: user messages after which the "
        "log-probability of `word` is subtracted",
    )
    position: Literal["any", "last"] = setting(
        "any", "activation: tokens on which features may fire; any: those of the message; last: the last before the answer"
    )
    word: str | None = setting(None, "attribution, influence: a word that the answer may begin with")
    answer_prefix: str | None = setting(
        None, "attribution, influence: beginning of the answer before `word`; null: `word` comes first"
    )
    strength: float = setting(
        5.0,
        "influence: activation to which features are set, as a multiple of their greatest activation on text",
        "× maximum",
        gt=0,
        le=1000,
    )
    top: int = setting(20, "features that are listed", "features", ge=1, le=MAX_ROWS)
    verify: int = setting(
        32,
        "attribution: number of features with the highest attributions, and of random ones, that are ablated",
        "features",
        ge=1,
        le=MAX_ROWS,
    )
    nulls: int = setting(199, "activation: searches for random texts", "searches", ge=1, le=MAX_ROWS)
    level: float = setting(0.05, "activation: p up to which a feature counts as beyond chance", "probability", gt=0, lt=1)
    seed: int = setting(0, "seed of random texts, features and directions", "", ge=0, le=MAX_SEED)

    @model_validator(mode="after")
    def asks_something(self) -> Self:
        """Require `word` for every search except by activation, and texts that are not empty and differ."""
        if (self.by == "activation") == bool(self.word):
            raise ValueError(f"by: {self.by} {'reads no word' if self.word else 'needs word'}")
        if any(not text.strip() for text in [*self.positive, *self.negative]):
            raise ValueError("a text of positive or negative is empty")
        if shared := sorted(set(self.positive) & set(self.negative)):
            raise ValueError(f"positive and negative both hold {shared[0]!r}")
        return self
