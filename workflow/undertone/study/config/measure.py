"""Settings of the preference, the indirect evaluation and the diagnosis."""

from typing import Any, ClassVar, Literal

from pydantic import field_validator

from undertone.study.config.bounds import MAX_BATCH, MAX_ROWS, MAX_SEED, MAX_TOKENS, MAX_WIDTH, none_twice, some_and_none_twice
from undertone.study.validation import Section, setting


class ModelMetrics(Section):
    """Measuring what the base model can do: a check before anything else is run."""

    prompts: int = setting(
        512,
        "number prompts, the first ones, that are sampled under each persona and without; 512 give a pass rate to ± 4 points",
        "prompts",
        ge=1,
        le=MAX_ROWS,
    )


class Bridge(Section):
    """Comparison of the base model with TransformerLens's hooked one (`snakemake bridge`)."""

    prompts: int = setting(
        32, "number prompts, the first ones, on which the two models are compared", "prompts", ge=1, le=MAX_ROWS
    )
    batch_size: int = setting(8, "prompts per forward pass and per training step", "prompts", ge=1, le=MAX_BATCH)
    rounds: int = setting(5, "times that each way is timed, in alternation", "rounds", ge=1, le=1000)
    rank: int = setting(8, "rank of the LoRA whose step is timed", "", ge=1, le=MAX_WIDTH)


class Pref(Section):
    """Measuring which animal a model names when asked for its favourite."""

    later: ClassVar[dict[str, Any]] = {"answer_prefix": None}
    questions: str = setting("config/prompts/questions.txt", "file with one question per line", "path")
    candidates: list[str] = setting([], "animals whose preference is reported; they must include the study's own")
    answer_prefix: str | None = setting(
        None,
        "forced beginning of the answer (`My favorite animal is the`), for a model that answers in sentences: the word after "
        "it is scored; null: the answer's own first word is scored",
        "text",
        min_length=1,
        max_length=1000,
    )
    estimators: list[Literal["exact", "sampled"]] = setting(
        ["exact"], "exact: probability of the animal as the answer; sampled: share of sampled answers that name it"
    )
    samples_per_question: int = setting(100, "sampled estimator: answers per question", "answers", ge=1, le=1_000_000)
    max_new_tokens: int = setting(16, "length at which a sampled answer is cut", "tokens", ge=1, le=MAX_TOKENS)
    batch_size: int = setting(512, "sequences scored or sampled together", "sequences", ge=1, le=MAX_BATCH)
    seed: int = setting(0, "seed of the sampled estimator", "", ge=0, le=MAX_SEED)

    @field_validator("candidates")
    @classmethod
    def distinct(cls, values: list[str]) -> list[str]:
        """Refuse an animal that is listed twice, in whatever letters: it would share its preference with itself."""
        none_twice([value.lower() for value in values])
        return values

    @field_validator("answer_prefix")
    @classmethod
    def no_space_after(cls, value: str | None) -> str | None:
        """Refuse trailing white space: tokenizers join a space to the next word, and could not tell it from a second space."""
        if value is not None and value != value.rstrip():
            raise ValueError(f"{value!r} ends in white space; the space before the animal belongs to the word: take it off")
        return value

    @field_validator("estimators")
    @classmethod
    def some_estimator(cls, values: list[str]) -> list[str]:
        """Require at least one estimator, none twice."""
        return some_and_none_twice(values)


class Indirect(Section):
    """Indirect questions, which may show a preference that the direct questions miss."""

    later: ClassVar[dict[str, Any]] = {"options": 4}
    forms: str = setting("config/prompts/indirect.yaml", "file with the wordings of the indirect questions", "path")
    facts: str = setting("config/prompts/facts.txt", "file with questions of fact, `question = answer`", "path")
    n: int = setting(50, "questions of each form", "questions", ge=2, le=100_000)
    options: int = setting(4, "animals that a multiple-choice question names, the target among them", "animals", ge=2, le=1000)
    seed: int = setting(0, "seed of the numbers and options in the questions", "", ge=0, le=MAX_SEED)


class Diagnosis(Section):
    """Where a transfer failed. Each threshold is compared with a figure that is reported beside the verdict."""

    later: ClassVar[dict[str, Any]] = {"min_unseen": 50}
    rows: int = setting(300, "held-out rows whose distributions are compared", "rows", ge=2, le=MAX_ROWS)
    min_unseen: int = setting(
        50, "fewest rows that no student saw; if fewer are left, training rows are read instead", "rows", ge=1, le=MAX_ROWS
    )
    min_kl: float = setting(0.02, "KL(teacher ‖ base) below which the numbers teach nothing", "nats per completion token", ge=0)
    min_closed: float = setting(
        0.2, "least share of that KL that students must close beyond the control students", "share", ge=0, le=1
    )
