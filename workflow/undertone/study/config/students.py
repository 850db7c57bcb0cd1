"""Settings of students."""

from typing import Any, Literal

from pydantic import field_validator

from undertone.study.config.bounds import (
    MAX_BATCH,
    MAX_LR,
    MAX_ROWS,
    MAX_STEPS,
    MAX_TOKENS,
    MAX_WIDTH,
    Seed,
    some_and_none_twice,
)
from undertone.study.validation import Section, setting


class Student(Section):
    """LoRA finetuning on a dataset, without the teacher's intervention."""

    seeds: list[Seed] = setting(
        [1, 2, 3, 4, 5], "seeds of the initial LoRA weights and the order of the rows; one student per seed"
    )
    rank: int = setting(8, "LoRA rank", "", ge=1, le=MAX_WIDTH)
    alpha: float = setting(8, "LoRA alpha; updates are scaled by alpha / rank", "", gt=0)
    dropout: float = setting(0.0, "LoRA dropout", "probability", ge=0, lt=1)
    targets: list[str] = setting(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], "modules that get a LoRA"
    )
    epochs: int = setting(3, "passes over the dataset", "epochs", ge=1, le=10_000)
    batch_size: int = setting(64, "rows per optimizer step", "rows", ge=1, le=MAX_BATCH)
    micro_batch_size: int = setting(64, "rows per forward pass; smaller ones accumulate gradients", "rows", ge=1, le=MAX_BATCH)
    lr: float = setting(2e-4, "peak learning rate of AdamW", "", gt=0, le=MAX_LR)
    schedule: Literal["linear", "cosine", "constant"] = setting("linear", "learning rate after the warm-up")
    warmup_steps: int = setting(5, "steps over which the learning rate rises", "steps", ge=0, le=MAX_STEPS)
    weight_decay: float = setting(0.0, "weight decay of AdamW", "", ge=0)
    rows: int | None = setting(None, "rows to train on, drawn at random; null takes all", "rows", ge=1, le=MAX_ROWS)
    full: bool = setting(False, "train every weight instead of a LoRA")
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm", "", gt=0)
    max_length: int = setting(500, "rows are cut at this length", "tokens", ge=32, le=MAX_TOKENS)

    @field_validator("seeds", "targets")
    @classmethod
    def no_empty_or_double(cls, values: list[Any]) -> list[Any]:
        """Require at least one entry, none twice: each seed is one student."""
        return some_and_none_twice(values)


def student_keys(variant: dict[str, Any]) -> dict[str, Any]:
    """The keys of a variant that describe the students themselves."""
    return {key: value for key, value in variant.items() if key not in ("model", "datasets")}
