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
        2_000,
        "most features on the page; of a larger SAE those that fire most often, features marked as junk last",
        "features",
        ge=1,
        le=MAX_ROWS,
    )
    max_junk: float = setting(
        0.5, "a feature with more of its activation on junk is marked as junk", "share of activation", ge=0, le=1
    )


class Neighbours(Section):
    """Which features lie near each other."""

    k: int = setting(
        10, "nearest features kept for each feature, by decoder, by encoder and by co-firing", "features", ge=1, le=1_000
    )
    shifts: int = setting(
        19,
        "shifts of the text by whole contexts that show co-firing by chance; chance exceeds the highest of 19 once in 20 times",
        "shifts",
        ge=1,
        le=1_000,
    )
    seed: int = setting(0, "seed of the shifts and of random vectors", "", ge=0, le=MAX_SEED)


class Map(Section):
    """The features in two dimensions, and in clusters."""

    n_neighbors: int = setting(15, "neighbours of each feature that UMAP keeps near", "features", ge=2, le=1_000)
    min_dist: float = setting(0.05, "least distance between two features in UMAP's layout", "units of the layout", ge=0, lt=1)
    min_cluster: int = setting(5, "fewest features of a cluster", "features", ge=2, le=MAX_ROWS)
    seed: int = setting(0, "seed of the layout, of random rows and of shuffled labels", "", ge=0, le=2**31)


class Specificity(Section):
    """Concepts against features, and against neurons."""

    concepts: str = setting("config/prompts/concepts.yaml", "file of the concepts", "path")
    tokens: int = setting(200_000, "tokens of text that are read, special tokens included", "tokens", ge=1_000, le=10**9)
    min_count: int = setting(
        50,
        "concepts that occur on fewer tokens of either half of the text, and features that fire on fewer, are left out",
        "tokens",
        ge=1,
        le=MAX_ROWS,
    )
    neurons: int = setting(
        4_096,
        "most neurons of the layer's MLP that are compared with features; if it has more, they are drawn at random",
        "neurons",
        ge=1,
        le=10**6,
    )
    bands: int = setting(10, "bands of equal width between zero and the greatest activation", "bands", ge=1, le=100)
    shifts: int = setting(20, "shifts of the concepts along the text that give the null", "draws", ge=1, le=10_000)
    seed: int = setting(0, "seed of the shifts, and of the draw of neurons", "", ge=0, le=MAX_SEED)


class Judge(Section):
    """A language model that grades how well a feature's concept fits its examples."""

    model: str = setting("", 'one of `models`, an instruction-tuned model; "" is the study\'s own')
    features: int = setting(
        100, "number of features, drawn at random from those that hold a concept beyond chance", "features", ge=2, le=MAX_ROWS
    )
    examples: int = setting(10, "examples of each feature, and as many of another feature", "examples", ge=2, le=1_000)
    auroc: float = setting(
        0.7,
        "a judge is of use if it tells tokens that hold a concept from others with this AUROC or more, over its whole interval",
        "AUROC",
        ge=0.5,
        le=1,
    )
    batch_size: int = setting(16, "examples that are graded at once", "examples", ge=1, le=MAX_BATCH)
    seed: int = setting(0, "seed of the draw", "", ge=0, le=MAX_SEED)


class Neurons(Section):
    """How far features are neurons of the MLPs."""

    tokens: int = setting(100_000, "tokens of text that neurons are read on", "tokens", ge=1_000, le=10**9)
    min_count: int = setting(
        20, "fewest tokens of each half of the text on which a feature must fire", "tokens", ge=2, le=MAX_ROWS
    )
    shifts: int = setting(19, "shifts of the text by whole contexts that show correlations by chance", "shifts", ge=0, le=1_000)
    shifted: int = setting(
        64, "number of features, drawn at random, that are read on shifted text", "features", ge=0, le=MAX_ROWS
    )
    seed: int = setting(0, "seed of that draw, of the shifts and of the rerandomized model", "", ge=0, le=MAX_SEED)


class Completeness(Section):
    """Which of many names have a feature of their own."""

    names: str = setting("config/prompts/names.yaml", "file of the names", "path")
    tokens: int = setting(300_000, "tokens of text that are read, special tokens included", "tokens", ge=1_000, le=10**9)
    min_count: int = setting(
        10, "names that occur on fewer tokens of either half of the text are left out", "tokens", ge=1, le=MAX_ROWS
    )
    f1: float = setting(0.5, "a name is covered by a feature whose F1 for it is at least this", "", gt=0, le=1)
    shuffles: int = setting(5, "shuffles of the names' places that show what is covered by chance", "draws", ge=1, le=1_000)
    permutations: int = setting(
        999,
        "permutations of which names are covered, for the test that covered names are more frequent",
        "permutations",
        ge=1,
        le=10**6,
    )
    bootstraps: int = setting(
        1_000, "bootstrap samples of names, for the interval of the count at which half are covered", "draws", ge=20, le=10**6
    )
    seed: int = setting(0, "seed of shuffles, permutations and bootstrap samples", "", ge=0, le=MAX_SEED)


class Splitting(Section):
    """Whether features recur in a wider SAE, as they are or in parts."""

    tokens: int = setting(200_000, "tokens of text that are read, special tokens included", "tokens", ge=1_000, le=10**9)
    min_count: int = setting(
        20, "features that fire on fewer tokens of the half that is scored are left out", "tokens", ge=1, le=MAX_ROWS
    )
    same: float = setting(0.9, "least cosine of decoder rows at which two features count as the same", "", gt=0, le=1)
    split: float = setting(
        0.7, "least cosine at which a feature counts as near another, or as a part of one that is split", "", gt=0, le=1
    )
    contained: float = setting(
        0.8,
        "a split is a hierarchy if the feature that is split fires on at least this share of each part's tokens",
        "share of tokens",
        gt=0,
        le=1,
    )


# Suffix of the name of a training on normal vectors.
GAUSSIAN = "gaussian"


class Scaling(Section):
    """What more features and more training tokens are worth to an SAE."""

    d_sae: list[int] = setting([64, 128, 256, 512, 1024], "widths of the SAEs", "features", min_length=3)
    tokens: list[int] = setting([125_000, 250_000, 500_000, 1_000_000], "lengths of the trainings", "tokens", min_length=3)
    seeds: list[int] = setting([0, 1], "seeds with which every training is run", "", min_length=1)
    controls: list[int] = setting(
        [0], "seeds of the controls, trainings on normal vectors of the activations' mean and covariance", "", min_length=1
    )
    revived: float = setting(0.2, "a feature that is silent for this share of a training is revived", "share", gt=0, le=1)
    held_out: int = setting(30_000, "tokens of held-out text on which an SAE is measured", "tokens", ge=1_000, le=10**8)
    starts: int = setting(9, "starting points of each fit", "starts", ge=1, le=1_000)
    bootstraps: int = setting(200, "bootstrap samples of runs for intervals", "draws", ge=20, le=10**5)
    budgets: int = setting(5, "budgets of compute for which the best width is reported", "budgets", ge=1, le=100)
    seed: int = setting(0, "seed of starting points and bootstrap samples", "", ge=0, le=MAX_SEED)

    @field_validator("d_sae", "tokens", "seeds", "controls")
    @classmethod
    def once_each(cls, values: list[int], info: ValidationInfo) -> list[int]:
        """Require different values, none below the least that a run can have."""
        least = 0 if info.field_name in ("seeds", "controls") else 1
        if len(set(values)) < len(values) or min(values) < least:
            raise ValueError(f"expected different whole numbers from {least} up, found {values}")
        return values


class Features(Section):
    """The description of each feature of the SAE."""

    top: int = setting(20, "examples of greatest activation", "examples per feature", ge=1, le=1_000)
    bottom: int = setting(20, "examples of least positive activation", "examples per feature", ge=0, le=1_000)
    bands: int = setting(5, "bands of equal width between zero and the greatest activation", "bands", ge=1, le=20)
    per_band: int = setting(5, "examples drawn from each band", "examples per feature", ge=0, le=1_000)
    misses: int = setting(
        5, "examples of the feature's commonest token where the feature is silent", "examples per feature", ge=0, le=1_000
    )
    before: int = setting(12, "tokens shown before an example's own", "tokens", ge=0, le=500)
    after: int = setting(6, "tokens shown after an example's own", "tokens", ge=0, le=500)
    attributed: int = setting(
        3,
        "examples of greatest activation that also show the contribution of each token",
        "examples per feature",
        ge=0,
        le=1_000,
    )
    clamped: int = setting(
        100,
        "contexts at whose last token each feature is clamped to get its output score; 0: no output score",
        "contexts",
        ge=0,
        le=10_000,
    )
    min_count: int = setting(
        20, "a feature that fires on fewer tokens is marked, as its figures rest on little", "tokens", ge=1, le=MAX_ROWS
    )
    numbers_are_junk: bool = setting(
        False, "count activation on tokens of digits alone as junk, like that on punctuation and white space"
    )
    max_norm: float = setting(
        10.0, "tokens with a residual norm above this multiple of the median are left out and counted", "× median", gt=1
    )
    seed: int = setting(0, "seed of all draws: examples of bands, misses, nulls", "", ge=0, le=MAX_SEED)
