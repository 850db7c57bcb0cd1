"""Settings of pairs of SAEs and of what is compared of them."""

from undertone.study.config.bounds import MAX_ROWS, MAX_SEED
from undertone.study.validation import Section, setting


class Pair(Section):
    """Two SAEs of the study."""

    a: str = setting("", 'one of `saes`; "" is the study\'s own')
    b: str = setting(..., 'one of `saes`; "" is the study\'s own')


class Matches(Section):
    """Which features of a pair of SAEs match."""

    tokens: int = setting(100_000, "tokens of text on which features are compared", "tokens", ge=1_000, le=10**9)
    max_norm: float = setting(
        10.0,
        "tokens whose residual norm is more than this many times the median, in either model, are left out and counted",
        "× median",
        gt=1,
    )
    min_count: int = setting(100, "a match is trivial if either feature fires on fewer tokens", "tokens", ge=1, le=MAX_ROWS)
    max_density: float = setting(0.2, "or on a greater share of the tokens", "share", gt=0, le=1)
    max_junk: float = setting(
        0.5, "or has more of its activation on punctuation, white space and role names", "share of activation", ge=0, le=1
    )
    shifts: int = setting(
        20, "times that one side's contexts are moved against the other's, for the null", "shifts", ge=1, le=10_000
    )
    shuffles: int = setting(
        39,
        "times that features are exchanged among equal tokens, for the null of correlations given the token",
        "shuffles",
        ge=19,
        le=10_000,
    )
    bootstraps: int = setting(1_000, "bootstrap samples of pairs for intervals of medians", "samples", ge=20, le=1_000_000)
    seed: int = setting(0, "seed of shifts and bootstrap samples", "", ge=0, le=MAX_SEED)


class Similarity(Section):
    """How alike the decoders of a pair of SAEs are."""

    permutations: int = setting(
        1_000, "times that matches are shuffled; at most 200 of more than 2,000 matches", "shuffles", ge=19, le=1_000_000
    )
    k: int = setting(10, "neighbours of each feature that are compared", "features", ge=1, le=29)
    variance: float = setting(
        0.99, "share of the variance in the principal components that SVCCA compares", "share", gt=0, lt=1
    )
    seed: int = setting(0, "seed of the shuffles", "", ge=0, le=MAX_SEED)


class Rotation(Section):
    """Whether an SAE explains another model's activations after one rotation."""

    ridge: float = setting(
        0.01, "what is added to each variance where the affine map is fitted", "share of the mean variance", gt=0, le=1_000
    )
    shifts: int = setting(
        20, "rotations fitted on contexts that do not belong together, for the null", "shifts", ge=2, le=10_000
    )
    bootstraps: int = setting(1_000, "bootstrap samples of contexts for intervals", "samples", ge=20, le=1_000_000)
    seed: int = setting(0, "seed of shifts, bootstrap samples and the random rotation", "", ge=0, le=MAX_SEED)


class Layers(Section):
    """Which layers of the two models of a pair lie alike."""

    read: int = setting(20_000, "tokens that are read, over which each token's mean is taken", "tokens", ge=100, le=10**8)
    tokens: int = setting(2_000, "of them, those at which layers are compared", "tokens", ge=100, le=100_000)
    max_norm: float = setting(
        10.0, "tokens whose norm at any layer is more than this many times the median are left out", "× median", gt=1
    )
    k: int = setting(10, "neighbours of each token that are compared", "tokens", ge=1, le=99)
    shifts: int = setting(
        20, "times that one side's contexts are moved against the other's, for the null", "shifts", ge=2, le=10_000
    )
    seed: int = setting(0, "seed of the shifts", "", ge=0, le=MAX_SEED)
