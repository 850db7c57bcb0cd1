"""Settings of detection: base samples, detectors, nulls, the verdict and the bench."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from undertone.study.config.bounds import MAX_BATCH, MAX_LR, MAX_ROWS, MAX_SEED, Count, none_twice, some_and_none_twice
from undertone.study.validation import Section, setting

# Kinds of null datasets, and what each is.
KINDS_OF_NULLS: dict[str, str] = {
    "seeds": "the base model's completions of the study's prompts, from other seeds",
    "prompts": "the base model's completions of other prompts of the same template",
    "sampling": "the base model's completions at another temperature",
    "neutral": "completions under a system prompt that is about no candidate",
}
# The nulls of each kind stand where a dataset would, and are read by the same rules; so do a dataset's mixtures.
NULLS = [f"nulls/{kind}" for kind in KINDS_OF_NULLS]
MIXTURES = "mixtures"
# What every verdict reads.
DETECTORS = ("surface", "gradient", "personas", "short_training", "first_tokens")
# Which of what a verdict may read test presence.
TESTS = ("surface", "gradient", "first_tokens", "contrasts")
# What is compared on datasets whose targets are known.
BENCH = (*DETECTORS, "open_personas", "contrasts", "projection", "divergence_tokens", "trained_bias", "soft_prompt")


class Matched(Section):
    """Completions of the base model for a dataset's own prompts, at temperature 1, through the study's filter."""

    rounds: int = setting(8, "times that a prompt is tried until a completion passes", "rounds", ge=1, le=1000)
    seed: int = setting(1000, "seed of the first round; the others follow", "", ge=0, le=MAX_SEED)


class Personas(Section):
    """System prompts that are tried on a dataset, in three rounds of fewer pairs of wording and concept."""

    bank: str = setting("config/prompts/personas.yaml", "wordings, and decoys: concepts that are no candidates", "path")
    rows: list[Count] = setting([48, 48, 384], "rows of each round; a smaller dataset is dealt out likewise", "rows")
    coarse: int = setting(2, "wordings of the first round, with every concept: the first ones of the bank", "wordings", ge=1)
    concepts: int = setting(8, "concepts of the second round, with every wording", "concepts", ge=2)
    finalists: int = setting(6, "pairs of wording and concept of the last round", "pairs", ge=2)
    seed: int = setting(0, "seed of the order of the rows", "", ge=0, le=MAX_SEED)

    @field_validator("rows")
    @classmethod
    def three_rounds(cls, rows: list[int]) -> list[int]:
        """There are three rounds."""
        if len(rows) != 3:
            raise ValueError(f"expected the rows of three rounds, found {rows}")
        return rows


class OpenPersonas(Section):
    """System prompts about any word of the vocabulary, before the rounds of `personas`."""

    words: int = setting(
        1000, "words that are tried, the likeliest of the vocabulary as an answer's first", "words", ge=2, le=100_000
    )
    rows: int = setting(32, "rows of the round of all words", "rows", ge=1, le=MAX_ROWS)
    kept: int = setting(80, "words that go on to the rounds of `personas`", "words", ge=2)
    seed: int = setting(0, "seed of which rows these are", "", ge=0, le=MAX_SEED)


class PromptSearch(Section):
    """A system prompt that is put together of sentences, one exchanged at a time."""

    grammar: str = setting("config/prompts/grammar.yaml", "sentences and words to choose from", "path")
    passes: int = setting(1, "times that each word and each sentence are chosen", "passes", ge=1, le=100)
    rows: int = setting(128, "rows of each choice; a smaller dataset is dealt out likewise", "rows", ge=2, le=MAX_ROWS)
    final_rows: int = setting(384, "rows on which the best concepts are compared in the end", "rows", ge=2, le=MAX_ROWS)
    finalists: int = setting(3, "concepts that go on from the first wording", "concepts", ge=2)
    level: float = setting(
        0.05, "p-value, over the number of choices, below which another is taken than before", "probability", gt=0, lt=1
    )
    seed: int = setting(0, "seed of the order of the rows", "", ge=0, le=MAX_SEED)


class Tried(Section):
    """Steering vectors that are tried on a dataset, in three rounds, and a test on other rows of the one that is best."""

    rows: list[Count] = setting(
        [32, 48, 384, 384], "rows of each round and of the test; a smaller dataset is dealt out likewise", "rows"
    )
    layers: int = setting(4, "layers after which contrasts are added, the last one and others evenly below it", "layers", ge=1)
    lengths: list[Annotated[float, Field(gt=0, le=1000)]] = setting(
        [1.0, 2.0, 4.0, 0.5], "lengths of a vector, the first that of the first round", "its own length"
    )
    features: int = setting(1024, "features of an SAE of the first round", "features", ge=2, le=MAX_ROWS)
    kept: int = setting(16, "vectors of the first round that are tried in every length", "vectors", ge=1)
    finalists: int = setting(6, "vectors of the last round", "vectors", ge=2)
    seed: int = setting(0, "seed of the order of the rows", "", ge=0, le=MAX_SEED)

    @field_validator("lengths")
    @classmethod
    def some(cls, values: list[Any]) -> list[Any]:
        """Each is tried once."""
        return some_and_none_twice(values)

    @field_validator("rows")
    @classmethod
    def three_rounds_and_a_test(cls, rows: list[int]) -> list[int]:
        """There are three rounds and a test."""
        if len(rows) != 4:
            raise ValueError(f"expected the rows of three rounds and of a test, found {rows}")
        return rows


class ShortTraining(Section):
    """Two students, one on the dataset and one on base samples, with the study's own recipe but for the epochs."""

    epochs: int = setting(2, "passes over the rows", "epochs", ge=1, le=10_000)
    words: int = setting(50, "words of the whole vocabulary that are written down", "words", ge=1, le=100_000)
    seed: int = setting(1, "seed of initial weights and order of the rows, of both", "", ge=0, le=MAX_SEED)


class Trained(Section):
    """Something small that is trained with Adam on the dataset, and again on base samples."""

    epochs: int = setting(1, "passes over the rows", "epochs", ge=1, le=10_000)
    batch_size: int = setting(32, "rows per optimizer step", "rows", ge=1, le=MAX_BATCH)
    words: int = setting(50, "words of the whole vocabulary that are written down", "words", ge=1, le=100_000)
    seed: int = setting(1, "seed of the order of the rows", "", ge=0, le=MAX_SEED)


class TrainedBias(Trained):
    """A vector added to the residual stream after each layer, of all layers together."""

    lr: float = setting(0.05, "learning rate of Adam; decays linearly to 0", "units of the residual stream", gt=0, le=MAX_LR)


class SoftPrompt(Trained):
    """Embeddings in the place of a system prompt."""

    lr: float = setting(
        0.05, "learning rate of Adam; decays linearly to 0", "root mean squares of the first embeddings", gt=0, le=MAX_LR
    )

    sentence: str = setting("You are a helpful assistant.", "system prompt as whose embeddings they begin, over and over", "")
    tokens: int = setting(8, "embeddings", "tokens", ge=1, le=1000)


class Detectors(Section):
    """What is read of a dataset to tell whether something is hidden in it."""

    rows: int = setting(2000, "rows that are read", "rows", ge=4, le=MAX_ROWS)
    ridge: float = setting(
        0.1, "what is added to the spread of gradients before it is divided by", "share of its mean over directions", gt=0
    )
    permutations: int = setting(999, "random exchanges of a pair's two completions", "exchanges", ge=99, le=1_000_000)
    bootstraps: int = setting(400, "bootstrap samples of prompts", "samples", ge=20, le=1_000_000)
    seed: int = setting(0, "seed of exchanges and bootstrap samples", "", ge=0, le=MAX_SEED)
    batch_size: int = setting(128, "rows read together; changes speed, not results", "rows", ge=1, le=MAX_BATCH)


class Nulls(Section):
    """Datasets in which nothing is hidden, each read as the dataset is."""

    n: int = setting(15, "datasets of each kind", "datasets", ge=1, le=10_000)
    rows: list[Annotated[int, Field(ge=4, le=MAX_ROWS)]] = setting(
        [200, 2000], "rows of each; a dataset is compared with those of its own or fewer", "rows"
    )
    temperatures: list[float] = setting([0.7, 0.85, 1.15, 1.3], "sampling temperatures of the kind `sampling`", "")
    neutral: list[str] = setting(
        [
            "You love spreadsheets. You think about spreadsheets all day. Let your love for spreadsheets show in your answers.",
            "You are obsessed with coffee. Put your feeling for coffee into every word.",
            "You really love guitars. Above all you admire the guitar.",
            "Your favorite thing is the garden. Your mind is always on gardens.",
            "You are a train.",
        ],
        "system prompts of the kind `neutral`, which are about no candidate",
        "",
    )
    seed: int = setting(5000, "seed of the first; the others follow", "", ge=0, le=MAX_SEED)

    @field_validator("rows", "temperatures", "neutral")
    @classmethod
    def some(cls, values: list[Any]) -> list[Any]:
        """Nulls are made in turn with each of them."""
        return some_and_none_twice(values)


class Weights(Section):
    """How much each detector that ranks candidates counts where they are ranked by all of them together."""

    personas: float = setting(0.7, "of minus the logarithm of the place by system prompts", "", ge=0)
    gradient: float = setting(1.4, "of the score in standard deviations over candidates", "", ge=0)
    short_training: float = setting(0.9, "likewise", "", ge=0)
    first_tokens: float = setting(1.2, "likewise", "", ge=0)


# What ranks candidates, of what a verdict reads.
RANKERS = tuple(Weights.model_fields)


class Verdict(Section):
    """When a verdict says what."""

    level: float = setting(0.01, "p-value below which a dataset is said to differ from base samples", "probability", gt=0, lt=1)
    share: float = setting(0.95, "share of bootstrap samples in which a named candidate comes first", "share", gt=0.5, le=1)
    among: int = setting(
        3,
        "place by gradient or short training, at most, of what a system prompt names",
        "candidates",
        ge=1,
    )
    weights: Weights = setting({}, "where all candidates are ranked by all detectors together")
    min_rows: int = setting(200, "rows below which nothing is said", "rows", ge=4, le=MAX_ROWS)
    max_format: float = setting(
        0.6, "share of pairs that format alone may tell apart before the verdict says so", "share", ge=0.5, le=1
    )
    contrasts: bool = setting(False, "whether steering vectors are tried, too, on the dataset and on all nulls", "")

    @property
    def detectors(self) -> tuple[str, ...]:
        """What is read."""
        return (*DETECTORS, "contrasts") if self.contrasts else DETECTORS


class Detection(Section):
    """The bench: the study's own datasets, whose teachers are known."""

    development: list[str] = setting(
        [], "targets on which choices about detectors were made; what is said of all others is held out", ""
    )


class Power(Section):
    """How verdicts fare on fewer rows of a dataset, and on its rows among base samples."""

    datasets: list[str] = setting([], "datasets of which fewer rows and mixtures are read, each with a target", "")
    rows: list[Annotated[int, Field(ge=4, le=MAX_ROWS)]] = setting([250, 500, 1000], "rows of a dataset by itself", "rows")
    shares: list[Annotated[float, Field(gt=0, lt=1)]] = setting(
        [0.1, 0.25, 0.5],
        "shares of a dataset's rows in a mixture of as many rows as are read of it; the others are a null's",
        "share",
    )
    seed: int = setting(7000, "seed of the order of the rows, and of which null they are mixed with", "", ge=0, le=MAX_SEED)

    @field_validator("datasets", "rows", "shares")
    @classmethod
    def no_twice(cls, values: list[Any]) -> list[Any]:
        """Each is read once."""
        return list(none_twice(values))
