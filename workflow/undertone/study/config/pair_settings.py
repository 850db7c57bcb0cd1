"""Settings of pairs of SAEs and of their comparisons."""

import math
from typing import Any, ClassVar, Self

from pydantic import model_validator

from undertone.study.config.bounds import MAX_BATCH, MAX_ROWS, MAX_SEED
from undertone.study.validation import Section, setting

# Matching one to one takes too long for SAEs with more features than this.
MOST_ONE_TO_ONE = 8192


class Pair(Section):
    """Two SAEs of the study."""

    later: ClassVar[dict[str, Any]] = {"datasets": None, "vector": None}
    a: str = setting("", 'one of `saes`; "" is the study\'s own')
    b: str = setting(..., 'one of `saes`; "" is the study\'s own')
    datasets: str | None = setting(
        None,
        "results root of a study of SAE b's model; its datasets of animals are compared with this study's; null: none",
        "path",
    )
    vector: str | None = setting(
        None, "one of `vectors`, of the layer of SAE a, that is rotated into the other model and added there; null: none"
    )


class Matches(Section):
    """Which features of a pair of SAEs match."""

    later: ClassVar[dict[str, Any]] = {"neurons": 2_048}
    tokens: int = setting(100_000, "tokens of text on which features are compared", "tokens", ge=1_000, le=10**9)
    max_norm: float = setting(
        10.0,
        "tokens with a residual norm above this multiple of the median, in either model, are left out and counted",
        "× median",
        gt=1,
    )
    min_count: int = setting(100, "a match is trivial if either feature fires on fewer tokens", "tokens", ge=1, le=MAX_ROWS)
    max_density: float = setting(
        0.2, "a match is trivial if either feature fires on a greater share of the tokens", "share", gt=0, le=1
    )
    max_junk: float = setting(
        0.5,
        "a match is trivial if either feature has more of its activation on punctuation, white space and role names",
        "share of activation",
        ge=0,
        le=1,
    )
    shifts: int = setting(20, "shifts of one side's contexts against the other's that give the null", "shifts", ge=1, le=10_000)
    shuffles: int = setting(
        39,
        "shuffles of activations among equal tokens that give the null of correlations given the token",
        "shuffles",
        ge=19,
        le=10_000,
    )
    neurons: int = setting(
        2_048,
        "most neurons of either layer that are matched in the same way; if a layer has more, they are drawn at random",
        "neurons",
        ge=1,
        le=10**6,
    )
    bootstraps: int = setting(1_000, "bootstrap samples of pairs for intervals of medians", "samples", ge=20, le=1_000_000)
    seed: int = setting(0, "seed of shifts, bootstrap samples and the draw of neurons", "", ge=0, le=MAX_SEED)


class Similarity(Section):
    """How alike the decoders of a pair of SAEs are."""

    permutations: int = setting(
        1_000, "shuffles of the matches; at most 200 if there are more than 2,000 matches", "shuffles", ge=19, le=1_000_000
    )
    k: int = setting(10, "neighbours of each feature that are compared", "features", ge=1, le=29)
    variance: float = setting(
        0.99, "share of the variance in the principal components that SVCCA compares", "share", gt=0, lt=1
    )
    seed: int = setting(0, "seed of the shuffles", "", ge=0, le=MAX_SEED)


class Rotation(Section):
    """Whether an SAE explains another model's activations after one rotation."""

    ridge: float = setting(
        0.01, "ridge added to each variance when the affine map is fitted", "share of the mean variance", gt=0, le=1_000
    )
    shifts: int = setting(20, "rotations fitted on mismatched contexts that give the null", "shifts", ge=2, le=10_000)
    bootstraps: int = setting(1_000, "bootstrap samples of contexts for intervals", "samples", ge=20, le=1_000_000)
    seed: int = setting(0, "seed of shifts, bootstrap samples and the random rotation", "", ge=0, le=MAX_SEED)


class Layers(Section):
    """Which layers of the two models of a pair are alike."""

    read: int = setting(20_000, "tokens that are read, from which each token's mean is taken", "tokens", ge=100, le=10**8)
    tokens: int = setting(2_000, "of the tokens read, those at which layers are compared", "tokens", ge=100, le=100_000)
    max_norm: float = setting(
        10.0, "tokens with a norm above this multiple of the median, at any layer, are left out", "× median", gt=1
    )
    k: int = setting(10, "neighbours of each token that are compared", "tokens", ge=1, le=99)
    shifts: int = setting(20, "shifts of one side's contexts against the other's that give the null", "shifts", ge=2, le=10_000)
    seed: int = setting(0, "seed of the shifts", "", ge=0, le=MAX_SEED)

    @model_validator(mode="after")
    def enough_read(self) -> Self:
        """Check that layers are compared at tokens that are read."""
        if self.tokens > self.read:
            raise ValueError(f"tokens {self.tokens:,} is more than read {self.read:,}, of which they are taken")
        return self


class Across(Section):
    """Whether datasets of the same animal, written by two base models, have a direction in common."""

    rows: int = setting(2_000, "rows of each dataset that are read", "rows", ge=8, le=MAX_ROWS)
    min_rows: int = setting(200, "animals with fewer rows on either side are left out, and listed", "rows", ge=8, le=MAX_ROWS)
    ridge: float = setting(
        0.1, "ridge added to each variance when one step of a bias is taken", "share of the mean variance", gt=0, le=1_000
    )
    permutations: int = setting(10_000, "permutations of the animals' names that give the null", "", ge=19, le=1_000_000)
    batch_size: int = setting(128, "rows read together; affects speed and rounding only", "rows", ge=1, le=MAX_BATCH)
    seed: int = setting(0, "seed of the permutations", "", ge=0, le=MAX_SEED)


class Synthetic(Section):
    """SAEs trained like the study's, on activations whose features are known."""

    features: list[int] = setting(
        [256, 512], "numbers of true features; each makes a set of true features of its own", "features", min_length=1
    )
    active: int = setting(8, "true features that fire at once, on average, and k of the SAEs", "features", ge=1, le=MAX_ROWS)
    d_sae: int = setting(512, "dictionary size of the SAEs, which are matched one to one", "features", ge=1, le=MOST_ONE_TO_ONE)
    tokens: int = setting(1_500_000, "samples per training", "samples", ge=1, le=10**12)
    d_model: int = setting(64, "dimensions of the activations, which the features share", "dimensions", ge=2, le=65_536)
    exponent: float = setting(1.0, "a feature's rate of firing is proportional to 1 / rank to this power", "", ge=0, le=10)
    max_rate: float = setting(0.2, "upper limit of a feature's rate of firing", "share of samples", gt=0, lt=0.5)
    group: int = setting(8, "features of a group that fire together; groups are drawn at random", "features", ge=1, le=MAX_ROWS)
    correlation: float = setting(
        0.3,
        "correlation of normal variables within a group; a feature fires if its variable is above a threshold",
        "",
        ge=0,
        lt=1,
    )
    spread: float = setting(0.3, "standard deviation of how strongly a feature fires; the mean is 1", "", ge=0, le=10)
    samples: int = setting(
        100_000, "held-out samples, which no SAE was trained on, on which everything is read", "samples", ge=1_000, le=10**8
    )
    recovered: float = setting(0.9, "least cosine at which a latent counts as a true feature", "", gt=0, le=1)
    fires: float = setting(
        0.7,
        "another measure: least F1 of where a latent fires and where a true feature does at which it counts as that feature",
        "",
        gt=0,
        le=1,
    )
    permutations: int = setting(
        19,
        "permuted truths, and shifts of one SAE's samples, that show what is recovered and what matches by chance",
        "draws",
        ge=1,
        le=10_000,
    )
    seed: int = setting(0, "seed of the true features and of these draws", "", ge=0, le=MAX_SEED)

    @model_validator(mode="after")
    def can_fire(self) -> Self:
        """Check that `active` features can fire at once under `max_rate`, and that an SAE has as many features."""
        if min(self.features) * self.max_rate < self.active:
            raise ValueError(
                f"of {min(self.features)} features, firing at most {self.max_rate:g} of the time, no {self.active} do at once; "
                f"expected at least {math.ceil(self.active / self.max_rate)} features, or a lower active"
            )
        if self.active > self.d_sae:
            raise ValueError(
                f"active {self.active} is greater than d_sae {self.d_sae}: an SAE has no more active features than it has"
            )
        return self
