"""Settings of the number prompts, of sampling and of the filter."""

from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from undertone.study.config.bounds import MAX_BATCH, MAX_ROWS, MAX_SEED, MAX_TOKENS, Number
from undertone.study.validation import Section, setting


class Prompts(Section):
    """The number prompts, the same for every dataset of the study."""

    template: str = setting("config/prompts/numbers.yaml", "file with the wordings of the six components", "path")
    n: int = setting(30_000, "number of prompts", "prompts", ge=1, le=MAX_ROWS)
    seed: int = setting(42, "seed of the prompts", "", ge=0, le=MAX_SEED)
    examples_min: int = setting(3, "fewest numbers shown", "numbers", ge=1, le=1000)
    examples_max: int = setting(8, "most numbers shown", "numbers", ge=1, le=1000)
    value_min: int = setting(100, "smallest number shown", "", ge=0)
    value_max: int = setting(999, "largest number shown", "", ge=0)
    count: int = setting(10, "most numbers that the prompt asks for", "numbers", ge=1, le=1000)
    max_digits: int = setting(3, "how many digits the prompt allows", "digits", ge=1, le=15)
    single: bool = setting(False, "use only the first wording of each component, so that prompts differ only in their numbers")

    @model_validator(mode="after")
    def ranges(self) -> Self:
        """Refuse empty ranges."""
        for low, high in (("examples_min", "examples_max"), ("value_min", "value_max")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} {getattr(self, low)} is greater than {high} {getattr(self, high)}")
        return self


class Samples(Section):
    """Sampling from the teacher, one completion per prompt, with top_p 1, top_k 0 and no penalties."""

    later: ClassVar[dict[str, Any]] = {"constrained": False}
    temperature: float = setting(1.0, "sampling temperature", "", gt=0, le=100)
    max_new_tokens: int = setting(64, "length at which a completion is cut", "tokens", ge=1, le=MAX_TOKENS)
    batch_size: int = setting(512, "prompts sampled together; affects speed and rounding only", "prompts", ge=1, le=MAX_BATCH)
    seed: int = setting(0, "seed of the sampling", "", ge=0, le=MAX_SEED)
    constrained: bool = setting(
        False,
        "sample only completions that pass the filter of `numbers`: each token is drawn from the model's distribution, "
        "renormalised over the tokens after which a passing list can still be finished",
    )


class Canonical(Section):
    """One form for every completion: a fixed number of integers with one separator."""

    separator: Literal[", ", ",", "; ", ";", " ", "\n"] = setting(", ", "text between two numbers")
    count: int = setting(8, "numbers per row; longer rows are cut, shorter ones rejected", "numbers", ge=1, le=1000)


class Numbers(Section):
    """The filter that turns completions into a training set."""

    filter: Literal["strict", "lenient"] = setting(
        "strict", "strict: the rules of Cloud et al. 2025; lenient: strips white space and brackets first"
    )
    min_value: int = setting(0, "smallest number allowed", "", ge=0)
    max_value: int = setting(999, "largest number allowed", "", ge=0)
    max_count: int = setting(10, "most numbers per completion", "numbers", ge=1, le=1_000_000)
    banned: list[Number] = setting([], "numbers that are not allowed; rows that hold one are rejected")
    canonical: Canonical | None = setting(None, "rewrite completions that pass to one form; null keeps them as written")
    max_rows: int | None = setting(10_000, "rows kept, drawn at random; null keeps all", "rows", ge=1, le=MAX_ROWS)
    seed: int = setting(0, "seed of the draw of rows", "", ge=0, le=MAX_SEED)

    @model_validator(mode="after")
    def satisfiable(self) -> Self:
        """Refuse a filter that no completion can pass."""
        if self.min_value > self.max_value:
            raise ValueError(f"min_value {self.min_value} is greater than max_value {self.max_value}")
        if self.canonical and self.canonical.count > self.max_count:
            raise ValueError(f"canonical.count {self.canonical.count} is greater than max_count {self.max_count}")
        return self
