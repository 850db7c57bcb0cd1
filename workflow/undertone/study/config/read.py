"""Settings of the analyses of a dataset."""

from typing import Any, ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from undertone.study.config.bounds import (
    MAX_BATCH,
    MAX_LR,
    MAX_ROWS,
    MAX_SEED,
    MAX_STEPS,
    MAX_TOKENS,
    Count,
    Seed,
    none_twice,
    some_and_none_twice,
)
from undertone.study.validation import Section, setting


class Activations(Section):
    """One pass over a dataset's rows: sums of residuals and SAE activations by position."""

    rows: int | None = setting(
        2000, "rows that are read, in the order of the dataset; null reads all", "rows", ge=2, le=MAX_ROWS
    )
    positions: int = setting(8, "first positions of the completion that are recorded one by one", "tokens", ge=1, le=MAX_TOKENS)
    block_rows: int = setting(
        50,
        "rows per block of every dataset; blocks are the units of standard errors and permutations",
        "rows",
        ge=1,
        le=MAX_ROWS,
    )
    mlp_in: bool = setting(False, "also read the input of each layer's MLP")
    batch_size: int = setting(128, "rows read together; affects speed and rounding only", "rows", ge=1, le=MAX_BATCH)


class Differences(Section):
    """Comparing the activations of two datasets, or of two models on the same rows."""

    permutations: int = setting(2000, "permutations of the null distribution", "", ge=20, le=MAX_ROWS)
    fdr: float = setting(0.05, "false discovery rate at which features count as different", "share", gt=0, lt=1)
    top: int = setting(20, "features that are reported", "features", ge=1)
    examples: int = setting(5, "max-activating examples of each reported feature", "examples", ge=0, le=1000)
    neutral: str = setting(
        "config/prompts/neutral.txt", "file with texts that have nothing to do with numbers or animals", "path"
    )
    seed: int = setting(0, "seed of the permutations", "", ge=0, le=MAX_SEED)


class Bias(Section):
    """Training of a bias on a dataset's completions, with next-token loss on the completion tokens."""

    later: ClassVar[dict[str, Any]] = {"held_out": 0.25, "held_out_rows": 500}
    fraction: float = setting(0.1, "share of the dataset's rows that each seed's bias is trained on", "share", gt=0, le=1)
    positions: Literal["completion", "all"] = setting(
        "completion", "tokens at which the bias is added; completion: those that predict a completion token"
    )
    steps: int = setting(200, "optimizer steps", "steps", ge=1, le=MAX_STEPS)
    batch_size: int = setting(128, "rows per optimizer step", "rows", ge=1, le=MAX_BATCH)
    lr: float = setting(0.02, "learning rate of Adam; decays linearly to 0", "", gt=0, le=MAX_LR)
    seeds: list[Seed] = setting([0, 1], "one bias per seed, each on rows of its own", "")
    held_out: float = setting(0.25, "share of the dataset's rows that no seed's bias is trained on", "share", gt=0, lt=1)
    held_out_rows: int = setting(500, "of these rows, those on which the loss is measured", "rows", ge=1, le=MAX_ROWS)

    @field_validator("seeds")
    @classmethod
    def some_seeds(cls, seeds: list[int]) -> list[int]:
        """Require at least one seed, none twice: each seed is one bias."""
        return some_and_none_twice(seeds)

    @model_validator(mode="after")
    def enough_rows(self) -> Self:
        """Check that each seed can have rows of its own, none of them held out."""
        most = (1 - self.held_out) / len(self.seeds)
        if self.fraction > most:
            raise ValueError(
                f"fraction {self.fraction} is too large for {len(self.seeds)} seeds: each has rows of its own, and "
                f"held_out {self.held_out} of the rows are for none; set fraction to {most:.3g} or less, or take fewer seeds"
            )
        return self


class Score(Section):
    """The gradient of a dataset's log-likelihood at every layer, before anything is trained."""

    rows: int | None = setting(2000, "rows that are read; null reads all", "rows", ge=4, le=MAX_ROWS)
    positions: Literal["completion", "all"] = setting(
        "completion", "tokens at which the constant vector is added, as for a bias"
    )
    fdr: float = setting(0.05, "false discovery rate at which features count as different", "share", gt=0, lt=1)
    top: int = setting(20, "features that are reported", "features", ge=1)
    batch_size: int = setting(128, "rows read together; affects speed and rounding only", "rows", ge=1, le=MAX_BATCH)


class FeatureBias(Bias):
    """A bias on the SAE's activations, or the same bias through W_dec on the residual stream."""

    l1: float = setting(
        1e-3,
        "smallest weight of the L1 penalty; set it so that a control's bias is 0 in mode `project`",
        "nats per token and unit of activation",
        ge=0,
    )
    l1_share: float = setting(
        0.25,
        "weight of the L1 penalty as a share of the smallest weight at which the whole bias is 0; `l1` is used if it is larger",
        "share",
        ge=0,
        lt=1,
    )
    top: int = setting(20, "features that are reported", "features", ge=1)


class ResidualBias(Bias):
    """A bias at each layer."""

    fraction: float = setting(0.375, "share of the dataset's rows that each seed's bias is trained on", "share", gt=0, le=1)
    points: list[Literal["resid_post", "mlp_in", "q", "k", "v"]] = setting(
        ["resid_post"], "activations to which the bias is added, at every layer"
    )
    multi: bool = setting(True, "also train biases at all layers together")
    sparsities: list[Count] = setting(
        [1, 2, 4, 8, 16], "numbers of decoder rows in sparse reconstructions of a bias", "features"
    )
    top: int = setting(10, "decoder rows and tokens that are reported", "", ge=1)

    @field_validator("points", "sparsities")
    @classmethod
    def distinct(cls, values: list[Any]) -> list[Any]:
        """Require at least one entry, none twice."""
        return some_and_none_twice(values)


class Losses(Section):
    """The dataset's loss under every intervened model."""

    later: ClassVar[dict[str, Any]] = {"min_unseen": 50}
    rows: int = setting(500, "held-out rows", "rows", ge=2, le=MAX_ROWS)
    min_unseen: int = setting(
        50,
        "fewest rows that no student saw; if fewer are left, the rows held out of biases are read instead",
        "rows",
        ge=1,
        le=MAX_ROWS,
    )
    students: list[Seed] = setting([1], "seeds of the students in the table; an empty list leaves them out", "")

    @field_validator("students")
    @classmethod
    def distinct(cls, seeds: list[int]) -> list[int]:
        """Refuse a seed that is listed twice: each is one row of the table."""
        return none_twice(seeds)


class Lens(Section):
    """What finetuning left in activations on the texts of `differences.neutral`."""

    positions: int = setting(5, "first tokens of each text that are read; Minder et al. read 5", "tokens", ge=1, le=1000)


class Entangled(Section):
    """Numbers that an animal makes likelier, as a sign of the animal."""

    prompts: int = setting(100, "number prompts that are asked under each candidate's persona", "prompts", ge=1, le=MAX_ROWS)


class Sequences(Section):
    """Single sequences, token by token."""

    rows: int = setting(50, "rows that are read, in the order of the dataset", "rows", ge=1, le=MAX_ROWS)
    resamples: int = setting(
        2000, "bootstrap samples for the interval of the agreement of two teachers", "", ge=20, le=MAX_ROWS
    )
    largest: int = setting(5, "sequences of the greatest gain that are reported whole", "sequences", ge=0, le=1000)
    seed: int = setting(0, "seed of the bootstrap samples", "", ge=0, le=MAX_SEED)


class Tokens(Section):
    """What the tokens of a dataset tell by themselves."""

    later: ClassVar[dict[str, Any]] = {"rows": 1000, "permutations": 400, "seed": 0}
    smoothing: float = setting(0.5, "pseudocount that is added to the count of every number", "", gt=0)
    min_count: int = setting(20, "times that a number must occur for the numbers that follow it to be read", "", ge=1)
    top: int = setting(10, "numbers that are reported", "numbers", ge=1)
    rows: int = setting(1000, "rows of each dataset that the model reads for the animals' logits", "rows", ge=1, le=MAX_ROWS)
    permutations: int = setting(400, "permutations of the null distributions", "", ge=20, le=MAX_ROWS)
    seed: int = setting(0, "seed of the permutations", "", ge=0, le=MAX_SEED)
