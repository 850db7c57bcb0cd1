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
# The nulls of each kind take the place of a dataset and are read by the same rules; so do a dataset's mixtures.
NULLS = [f"nulls/{kind}" for kind in KINDS_OF_NULLS]
MIXTURES = "mixtures"
# The detectors that every verdict reads.
DETECTORS = ("surface", "gradient", "personas", "short_training", "first_tokens")
# The detectors of a verdict that test presence.
TESTS = ("surface", "gradient", "first_tokens", "contrasts")
# The detectors that are compared on datasets whose targets are known.
BENCH = (*DETECTORS, "open_personas", "contrasts", "projection", "divergence_tokens", "trained_bias", "soft_prompt")


class Matched(Section):
    """Base samples: the base model's completions of a dataset's own prompts, at temperature 1, that pass the study's filter."""

    rounds: int = setting(8, "most times that a prompt is sampled until a completion passes", "rounds", ge=1, le=1000)
    seed: int = setting(1000, "seed of the first round; later rounds use the seeds that follow", "", ge=0, le=MAX_SEED)


class Personas(Section):
    """System prompts that are tried on a dataset, in three rounds with fewer and fewer pairs of wording and concept."""

    bank: str = setting(
        "config/prompts/personas.yaml", "file with wordings, and with decoys: concepts that are not candidates", "path"
    )
    rows: list[Count] = setting(
        [48, 48, 384], "rows of each of three rounds; a smaller dataset is divided in the same proportions", "rows"
    )
    coarse: int = setting(
        2, "wordings of the first round, the first ones of the bank, each tried with every concept", "wordings", ge=1
    )
    concepts: int = setting(8, "concepts of the second round, each tried with every wording", "concepts", ge=2)
    finalists: int = setting(6, "pairs of wording and concept of the last round", "pairs", ge=2)
    seed: int = setting(0, "seed of the order of the rows", "", ge=0, le=MAX_SEED)

    @field_validator("rows")
    @classmethod
    def three_rounds(cls, rows: list[int]) -> list[int]:
        """Require the rows of three rounds."""
        if len(rows) != 3:
            raise ValueError(f"expected the rows of three rounds, found {rows}")
        return rows


class OpenPersonas(Section):
    """System prompts about any word of the vocabulary, in a round before those of `personas`."""

    words: int = setting(
        1000,
        "words that are tried: those of the vocabulary that are likeliest as the first word of an answer",
        "words",
        ge=2,
        le=100_000,
    )
    rows: int = setting(32, "rows of the round of all words", "rows", ge=1, le=MAX_ROWS)
    kept: int = setting(80, "words that go on to the rounds of `personas`", "words", ge=2)
    seed: int = setting(0, "seed of the choice of these rows", "", ge=0, le=MAX_SEED)


class PromptSearch(Section):
    """Search for a system prompt composed of sentences, one of which is exchanged at a time."""

    grammar: str = setting("config/prompts/grammar.yaml", "file with the sentences and words to choose from", "path")
    passes: int = setting(1, "times that each word and each sentence is chosen", "passes", ge=1, le=100)
    rows: int = setting(
        128, "rows read for each choice; a smaller dataset is divided in the same proportions", "rows", ge=2, le=MAX_ROWS
    )
    final_rows: int = setting(384, "rows of the final comparison of the best concepts", "rows", ge=2, le=MAX_ROWS)
    finalists: int = setting(3, "concepts that are kept after the first wording", "concepts", ge=2)
    level: float = setting(
        0.05,
        "a choice is replaced by another if the p-value is below this, divided by the number of alternatives (Bonferroni)",
        "probability",
        gt=0,
        lt=1,
    )
    seed: int = setting(0, "seed of the order of the rows", "", ge=0, le=MAX_SEED)


class Tried(Section):
    """Steering vectors that are tried on a dataset in three rounds; the best one is tested on other rows."""

    rows: list[Count] = setting(
        [32, 48, 384, 384],
        "rows of each of three rounds and of the test; a smaller dataset is divided in the same proportions",
        "rows",
    )
    layers: int = setting(
        4, "number of layers after which contrasts are added: the last layer and others evenly spaced below it", "layers", ge=1
    )
    lengths: list[Annotated[float, Field(gt=0, le=1000)]] = setting(
        [1.0, 2.0, 4.0, 0.5], "lengths at which a vector is tried; the first round uses the first one", "its own length"
    )
    features: int = setting(1024, "features of an SAE that are tried in the first round", "features", ge=2, le=MAX_ROWS)
    kept: int = setting(16, "vectors of the first round that are tried at every length", "vectors", ge=1)
    finalists: int = setting(6, "vectors of the last round", "vectors", ge=2)
    seed: int = setting(0, "seed of the order of the rows", "", ge=0, le=MAX_SEED)

    @field_validator("lengths")
    @classmethod
    def some(cls, values: list[Any]) -> list[Any]:
        """Require at least one length, none twice."""
        return some_and_none_twice(values)

    @field_validator("rows")
    @classmethod
    def three_rounds_and_a_test(cls, rows: list[int]) -> list[int]:
        """Require the rows of three rounds and of the test."""
        if len(rows) != 4:
            raise ValueError(f"expected the rows of three rounds and of a test, found {rows}")
        return rows


class ShortTraining(Section):
    """Two students, one trained on the dataset and one on base samples, with the study's own recipe except for the epochs."""

    epochs: int = setting(2, "passes over the rows", "epochs", ge=1, le=10_000)
    words: int = setting(50, "words of the whole vocabulary that are reported", "words", ge=1, le=100_000)
    seed: int = setting(1, "seed of the initial weights and of the order of the rows, for both students", "", ge=0, le=MAX_SEED)


class Trained(Section):
    """A small set of parameters that is trained with Adam on the dataset, and again on base samples."""

    epochs: int = setting(1, "passes over the rows", "epochs", ge=1, le=10_000)
    batch_size: int = setting(32, "rows per optimizer step", "rows", ge=1, le=MAX_BATCH)
    words: int = setting(50, "words of the whole vocabulary that are reported", "words", ge=1, le=100_000)
    seed: int = setting(1, "seed of the order of the rows", "", ge=0, le=MAX_SEED)


class TrainedBias(Trained):
    """One vector per layer, added to the residual stream after it; the vectors of all layers are trained together."""

    lr: float = setting(0.05, "learning rate of Adam; decays linearly to 0", "units of the residual stream", gt=0, le=MAX_LR)


class SoftPrompt(Trained):
    """Trained embeddings in the place of a system prompt."""

    lr: float = setting(
        0.05, "learning rate of Adam; decays linearly to 0", "root mean squares of the first embeddings", gt=0, le=MAX_LR
    )

    sentence: str = setting(
        "You are a helpful assistant.", "system prompt whose embeddings, repeated as needed, are the initial values", ""
    )
    tokens: int = setting(8, "number of embeddings", "tokens", ge=1, le=1000)


class Detectors(Section):
    """What detectors read of a dataset to tell whether something is hidden in it."""

    rows: int = setting(2000, "rows that are read", "rows", ge=4, le=MAX_ROWS)
    ridge: float = setting(
        0.1,
        "ridge added to the variance of gradients in each direction before dividing by it",
        "share of its mean over directions",
        gt=0,
    )
    permutations: int = setting(
        999, "permutations that randomly exchange the two completions of each pair", "exchanges", ge=99, le=1_000_000
    )
    bootstraps: int = setting(400, "bootstrap samples of prompts", "samples", ge=20, le=1_000_000)
    seed: int = setting(0, "seed of exchanges and bootstrap samples", "", ge=0, le=MAX_SEED)
    batch_size: int = setting(128, "rows read together; affects speed and rounding only", "rows", ge=1, le=MAX_BATCH)


class Nulls(Section):
    """Datasets in which nothing is hidden, each read in the same way as the dataset."""

    n: int = setting(15, "datasets of each kind", "datasets", ge=1, le=10_000)
    rows: list[Annotated[int, Field(ge=4, le=MAX_ROWS)]] = setting(
        [200, 2000],
        "numbers of rows of each null; a dataset is compared with the nulls of the most rows, at most 1.1 times its own",
        "rows",
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
    seed: int = setting(5000, "seed of the first null; the others use the seeds that follow", "", ge=0, le=MAX_SEED)

    @field_validator("rows", "temperatures", "neutral")
    @classmethod
    def some(cls, values: list[Any]) -> list[Any]:
        """Require at least one entry, none twice: nulls are made with each of them in turn."""
        return some_and_none_twice(values)


class Weights(Section):
    """Weights of the detectors that rank candidates, in the ranking by all of them together."""

    personas: float = setting(0.7, "weight of minus the logarithm of a candidate's rank by system prompts", "", ge=0)
    gradient: float = setting(1.4, "weight of the detector's score, in standard deviations over candidates", "", ge=0)
    short_training: float = setting(0.9, "weight of the detector's score, in standard deviations over candidates", "", ge=0)
    first_tokens: float = setting(1.2, "weight of the detector's score, in standard deviations over candidates", "", ge=0)


# The detectors of a verdict that rank candidates.
RANKERS = tuple(Weights.model_fields)


class Verdict(Section):
    """Thresholds and weights of the verdict."""

    level: float = setting(0.01, "p-value below which a dataset is said to differ from base samples", "probability", gt=0, lt=1)
    share: float = setting(
        0.95, "least share of bootstrap samples in which a candidate must come first to be named", "share", gt=0.5, lt=1
    )
    probability: float = setting(
        0.5, "least probability of a candidate, by all detectors together, to be named", "probability", ge=0, lt=1
    )
    weights: Weights = setting({}, "weights of the detectors in the ranking of candidates by all of them together")
    min_rows: int = setting(200, "fewest rows for which anything is said", "rows", ge=4, le=MAX_ROWS)
    max_format: float = setting(
        0.6,
        "the verdict warns if format alone tells more often which of a pair is the dataset's",
        "share",
        ge=0.5,
        le=1,
    )
    contrasts: bool = setting(False, "also try steering vectors, on the dataset and on all nulls", "")

    @property
    def detectors(self) -> tuple[str, ...]:
        """The detectors that the verdict reads."""
        return (*DETECTORS, "contrasts") if self.contrasts else DETECTORS


class Detection(Section):
    """The bench: the study's own datasets, whose teachers are known."""

    development: list[str] = setting(
        [], "targets on which choices about detectors were made; results on all other targets are held out", ""
    )


class Power(Section):
    """How verdicts perform on fewer rows of a dataset, and on its rows mixed with base samples."""

    datasets: list[str] = setting([], "datasets whose smaller subsets and mixtures are read; each must have a target", "")
    rows: list[Annotated[int, Field(ge=4, le=MAX_ROWS)]] = setting(
        [250, 500, 1000], "numbers of rows of a dataset without base samples", "rows"
    )
    shares: list[Annotated[float, Field(gt=0, lt=1)]] = setting(
        [0.1, 0.25, 0.5],
        "shares of a dataset's rows in its mixtures; a mixture has as many rows as are read of the dataset, the others being a "
        "null's",
        "share",
    )
    seed: int = setting(
        7000, "seed of the order of the rows, and of the choice of the null that they are mixed with", "", ge=0, le=MAX_SEED
    )

    @field_validator("datasets", "rows", "shares")
    @classmethod
    def no_twice(cls, values: list[Any]) -> list[Any]:
        """Refuse an entry that is listed twice."""
        return list(none_twice(values))
