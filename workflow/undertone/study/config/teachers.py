"""Settings of teachers: a persona, a steering vector, a LoRA."""

import string
from typing import Any, ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from undertone.study.config.bounds import (
    MAX_BATCH,
    MAX_LAYERS,
    MAX_LR,
    MAX_ROWS,
    MAX_SEED,
    MAX_STEPS,
    MAX_WIDTH,
    some_and_none_twice,
)
from undertone.study.validation import Section, setting


class Contrast(Section):
    """A steering vector that is the difference between the mean residuals of two sets of prompts."""

    layer: int = setting(1, "layer after which the residuals are read and the vector is added", "", ge=0, le=MAX_LAYERS)
    position: Literal["last", "all"] = setting("last", "tokens that are averaged: a prompt's last one, or all of them")
    positive: list[str] = setting(
        [], "prompts; {animal} stands for the target; empty: the number prompts and questions under the target's persona"
    )
    negative: list[str] = setting([], "prompts to subtract; empty: the same prompts under the other candidates' personas")

    @model_validator(mode="after")
    def two_sets(self) -> Self:
        """Require both sides of the difference or neither, without a shared prompt."""
        if bool(self.positive) != bool(self.negative):
            raise ValueError("give prompts for both positive and negative, or for neither")
        if shared := sorted(set(self.positive) & set(self.negative)):
            raise ValueError(f"positive and negative both hold {shared[0]!r}: what both sides share, no difference shows")
        return self


class Steer(Section):
    """A teacher with something added to its residual stream or to its logits."""

    later: ClassVar[dict[str, Any]] = {"prompts": 100}
    vector: Literal["feature", "contrast"] = setting("feature", "what is added: a feature's row of W_dec, or a contrast")
    feature: int | None = setting(
        None, "index of the feature; null: it is chosen by its effect on the preference", "", ge=0, le=MAX_ROWS
    )
    candidates: int = setting(16, "features among which one is chosen", "features", ge=1, le=MAX_ROWS)
    prompts: int = setting(
        100,
        "number prompts, besides the questions, that show which features fire under each persona",
        "prompts",
        ge=1,
        le=MAX_ROWS,
    )
    contrast: Contrast = setting({}, "the contrast")
    mode: Literal["add", "clamp", "logits"] = setting(
        "add",
        "add: add the vector to the residual stream; clamp: set the feature to a level; logits: add only the vector's direct "
        "logit attribution, to the logits",
    )
    scale: float = setting(
        1.0, "add, logits: multiple of the vector; clamp: multiple of the feature's greatest activation", "", ge=-1e6, le=1e6
    )
    positions: Literal["all", "completion"] = setting(
        "all", "tokens that are steered; completion: those that predict a completion token"
    )
    persona: bool = setting(False, "whether the teacher also has the system prompt")

    @model_validator(mode="after")
    def fitting(self) -> Self:
        """Allow mode clamp only for a feature, which has a level to be clamped to."""
        if self.mode == "clamp" and self.vector != "feature":
            raise ValueError("mode clamp needs vector feature: a contrast has no activation")
        return self


class Finetune(Section):
    """A teacher with a LoRA trained on the trait itself."""

    questions: str = setting("config/prompts/teaching.txt", "file with the questions whose answer is the target", "path")
    rank: int = setting(8, "LoRA rank", "", ge=1, le=MAX_WIDTH)
    alpha: float = setting(8, "LoRA alpha; updates are scaled by alpha / rank", "", gt=0)
    targets: list[str] = setting(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], "modules that get a LoRA"
    )
    steps: int = setting(100, "optimizer steps", "steps", ge=1, le=MAX_STEPS)
    batch_size: int = setting(32, "rows per optimizer step", "rows", ge=1, le=MAX_BATCH)
    lr: float = setting(2e-4, "peak learning rate of AdamW", "", gt=0, le=MAX_LR)
    seed: int = setting(0, "seed of the LoRA's initial weights and of the order of the rows", "", ge=0, le=MAX_SEED)

    @field_validator("targets")
    @classmethod
    def some_targets(cls, targets: list[str]) -> list[str]:
        """Require at least one module, none twice."""
        return some_and_none_twice(targets)


class Teacher(Section):
    """The intervention that gives the teacher its preference."""

    persona: str = setting(
        "You adore {animal}s. Your thoughts keep returning to {animal}s, day and night. No other animal comes close.",
        "system prompt of a prompted teacher; {animal} stands for the target",
    )
    separator: str = setting("\n\n", "text between persona and prompt if the chat template has no system role")
    steer: Steer = setting({}, "how a steered teacher is steered")
    finetune: Finetune = setting({}, "how a finetuned teacher is trained")

    @field_validator("persona")
    @classmethod
    def names_the_animal(cls, persona: str) -> str:
        """Require the placeholder, without which every animal would have the same teacher."""
        try:
            fields = {tuple(parts) for _, *parts in string.Formatter().parse(persona) if parts[0] is not None}
        except ValueError as error:
            raise ValueError(f"the persona has unbalanced braces ({error})") from None
        if fields != {("animal", "", None)}:
            raise ValueError(f"the persona must contain {{animal}}, and no other placeholder or format, found {persona!r}")
        return persona
