"""Settings of the SAE laboratory."""

from pydantic import ValidationInfo, field_validator

from undertone.study.config.bounds import MAX_BATCH, MAX_ROWS, MAX_SEED
from undertone.study.validation import Section, setting


class Contexts(Section):
    """The text that features are read on."""

    tokens: int = setting(300_000, "tokens of text that features are read on", "tokens", ge=1_000, le=10**9)
    seed: int = setting(0, "embedded model: seed of the chats that are drawn", "", ge=0, le=MAX_SEED)


class Browser(Section):
    """The page of the features."""

    features: int = setting(
        2_000, "features on the page; of a larger SAE those that fire most often, junk last", "features", ge=1, le=MAX_ROWS
    )
    max_junk: float = setting(
        0.5, "a feature with more of its activation on junk is marked as such", "share of activation", ge=0, le=1
    )


class Neighbours(Section):
    """Which features lie near each other."""

    k: int = setting(
        10, "nearest features of each that are kept, by decoder, by encoder and by co-firing", "features", ge=1, le=1_000
    )
    shifts: int = setting(
        19,
        "moves of the text by whole contexts that show co-firing by chance; the greatest of 19 is exceeded once in 20 times",
        "shifts",
        ge=1,
        le=1_000,
    )
    seed: int = setting(0, "seed of the shifts and of random vectors", "", ge=0, le=MAX_SEED)


class Map(Section):
    """The features in two dimensions, and in clusters."""

    n_neighbors: int = setting(15, "neighbours of each that UMAP keeps near", "features", ge=2, le=1_000)
    min_dist: float = setting(0.05, "how near UMAP lays two features at least", "units of the layout", ge=0, lt=1)
    min_cluster: int = setting(5, "features of the smallest cluster", "features", ge=2, le=MAX_ROWS)
    seed: int = setting(0, "seed of the layout, of random rows and of shuffled labels", "", ge=0, le=2**31)


class Specificity(Section):
    """Concepts against features, and against neurons."""

    concepts: str = setting("config/prompts/concepts.yaml", "file of the concepts", "path")
    tokens: int = setting(200_000, "tokens of text that are read, special ones among them", "tokens", ge=1_000, le=10**9)
    min_count: int = setting(
        50,
        "concepts that stand on fewer tokens of one half of the text, and features that fire on fewer, are left out",
        "tokens",
        ge=1,
        le=MAX_ROWS,
    )
    neurons: int = setting(
        4_096,
        "neurons of the layer's MLP beside features; of more so many at random",
        "neurons",
        ge=1,
        le=10**6,
    )
    bands: int = setting(10, "bands of equal width between no and the greatest activation", "bands", ge=1, le=100)
    shifts: int = setting(20, "shifts of the concepts along the text, as a null", "draws", ge=1, le=10_000)
    seed: int = setting(0, "seed of the shifts, and of which neurons are drawn", "", ge=0, le=MAX_SEED)


class Judge(Section):
    """A language model that grades how well a feature's concept fits its examples."""

    model: str = setting("", 'one of `models`, an instruction-tuned model; "" is the study\'s own')
    features: int = setting(
        100, "features, drawn at random among those that hold a concept beyond chance", "features", ge=2, le=MAX_ROWS
    )
    examples: int = setting(10, "examples of each feature's own, and as many of another feature's", "examples", ge=2, le=1_000)
    auroc: float = setting(
        0.7,
        "a judge is of use if it tells tokens that hold a concept from others with this AUROC, its interval whole",
        "AUROC",
        ge=0.5,
        le=1,
    )
    batch_size: int = setting(16, "examples that are graded at once", "examples", ge=1, le=MAX_BATCH)
    seed: int = setting(0, "seed of the draw", "", ge=0, le=MAX_SEED)


class Neurons(Section):
    """How far features are neurons of the MLPs."""

    tokens: int = setting(100_000, "tokens of text that neurons are read on", "tokens", ge=1_000, le=10**9)
    min_count: int = setting(20, "tokens of each half that a feature must fire on", "tokens", ge=2, le=MAX_ROWS)
    shifts: int = setting(19, "moves of the text by whole contexts that show correlations by chance", "shifts", ge=0, le=1_000)
    shifted: int = setting(64, "features, drawn at random, that are read on moved text", "features", ge=0, le=MAX_ROWS)
    seed: int = setting(0, "seed of that draw, of the moves and of the rerandomized model", "", ge=0, le=MAX_SEED)


class Completeness(Section):
    """Which of many names have a feature of their own."""

    names: str = setting("config/prompts/names.yaml", "file of the names", "path")
    tokens: int = setting(300_000, "tokens of text that are read, special ones among them", "tokens", ge=1_000, le=10**9)
    min_count: int = setting(
        10, "names that stand on fewer tokens of one half of the text are left out", "tokens", ge=1, le=MAX_ROWS
    )
    f1: float = setting(0.5, "a name is covered by a feature whose F1 for it is at least this", "", gt=0, le=1)
    shuffles: int = setting(5, "times that names change places, for what is covered by chance", "draws", ge=1, le=1_000)
    permutations: int = setting(999, "permutations of which names are covered", "permutations", ge=1, le=10**6)
    bootstraps: int = setting(1_000, "draws of names for the interval of the count at one half", "draws", ge=20, le=10**6)
    seed: int = setting(0, "seed of all of these", "", ge=0, le=MAX_SEED)


class Splitting(Section):
    """Whether features come back in a wider SAE, as they are or in parts."""

    tokens: int = setting(200_000, "tokens of text that are read, special ones among them", "tokens", ge=1_000, le=10**9)
    min_count: int = setting(
        20, "features that fire on fewer tokens of the half that is scored are left out", "tokens", ge=1, le=MAX_ROWS
    )
    same: float = setting(0.9, "cosine of decoder rows from which on a feature is the same as another", "", gt=0, le=1)
    split: float = setting(0.7, "cosine from which on it is near another, or a part of one that is split", "", gt=0, le=1)
    contained: float = setting(
        0.8, "share of a part's tokens on which the feature that is split fires, in a hierarchy", "share of tokens", gt=0, le=1
    )


# What ends the name of a training on normal vectors.
GAUSSIAN = "gaussian"


class Scaling(Section):
    """What more features, and more tokens, of an SAE's training are worth."""

    d_sae: list[int] = setting([64, 128, 256, 512, 1024], "widths", "features", min_length=3)
    tokens: list[int] = setting([125_000, 250_000, 500_000, 1_000_000], "lengths of trainings", "tokens", min_length=3)
    seeds: list[int] = setting([0, 1], "seeds of every training", "", min_length=1)
    controls: list[int] = setting(
        [0], "seeds of trainings on normal vectors of the activations' mean and covariance", "", min_length=1
    )
    revived: float = setting(
        0.2, "share of a training after which a feature that was silent throughout is revived", "share", gt=0, le=1
    )
    held_out: int = setting(30_000, "tokens of text that measure an SAE", "tokens", ge=1_000, le=10**8)
    starts: int = setting(9, "starts of each fit", "starts", ge=1, le=1_000)
    bootstraps: int = setting(200, "draws of runs for intervals", "draws", ge=20, le=10**5)
    budgets: int = setting(5, "budgets of compute, for which the best width is said", "budgets", ge=1, le=100)
    seed: int = setting(0, "seed of starts and draws", "", ge=0, le=MAX_SEED)

    @field_validator("d_sae", "tokens", "seeds", "controls")
    @classmethod
    def once_each(cls, values: list[int], info: ValidationInfo) -> list[int]:
        """Each run is made once, of a size that an SAE can have."""
        least = 0 if info.field_name in ("seeds", "controls") else 1
        if len(set(values)) < len(values) or min(values) < least:
            raise ValueError(f"expected different whole numbers from {least} up, found {values}")
        return values


class Features(Section):
    """What each feature of the SAE is."""

    top: int = setting(20, "examples of greatest activation", "examples per feature", ge=1, le=1_000)
    bottom: int = setting(20, "examples of least positive activation", "examples per feature", ge=0, le=1_000)
    bands: int = setting(5, "bands of equal width between no and the greatest activation", "bands", ge=1, le=20)
    per_band: int = setting(5, "examples drawn from each band", "examples per feature", ge=0, le=1_000)
    misses: int = setting(
        5, "examples of the feature's commonest token on which it is silent", "examples per feature", ge=0, le=1_000
    )
    before: int = setting(12, "tokens shown before an example's own", "tokens", ge=0, le=500)
    after: int = setting(6, "tokens shown after it", "tokens", ge=0, le=500)
    attributed: int = setting(
        3,
        "of the examples of greatest activation, those with what each token contributes",
        "examples per feature",
        ge=0,
        le=1_000,
    )
    clamped: int = setting(
        100,
        "contexts at whose last token each feature is clamped for its output score; 0: no such score",
        "contexts",
        ge=0,
        le=10_000,
    )
    min_count: int = setting(
        20, "a feature that fires on fewer tokens is marked: its figures rest on little", "tokens", ge=1, le=MAX_ROWS
    )
    numbers_are_junk: bool = setting(
        False, "whether activation on tokens of digits alone counts as junk, as on punctuation and white space"
    )
    max_norm: float = setting(
        10.0, "tokens whose residual norm is more than this many times the median are left out and counted", "× median", gt=1
    )
    seed: int = setting(0, "seed of what is drawn: examples of bands, misses, nulls", "", ge=0, le=MAX_SEED)
