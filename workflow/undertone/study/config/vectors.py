"""Settings of steering vectors and of what is read of them."""

from typing import Any, ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from undertone.study.config.bounds import MAX_LAYERS, MAX_ROWS, MAX_SEED, MAX_TOKENS, Count, some_and_none_twice
from undertone.study.validation import Section, setting

Kind = Literal["contrast", "pca", "sum", "feature", "bias", "function", "file"]
# The keys that each kind reads beside `kind`, `target` and `positions`; it takes no others.
READS: dict[str, set[str]] = {
    "contrast": {"layer", "position", "positive", "negative"},
    "pca": {"layer", "position", "positive", "negative"},
    "sum": {"of"},
    "feature": {"feature", "sae"},
    "bias": {"dataset", "layer"},
    "function": {"dataset", "layer"},
    "file": {"file", "layer"},
}


# A vector a thousand times as long as a residual leaves nothing of it.
MAX_SCALE = 1000


class Vector(Section):
    """A direction of the residual stream after one layer."""

    kind: Kind = setting(
        ...,
        "contrast: difference between the mean residuals of two sets of prompts; pca: first principal component of the "
        "differences of pairs; sum: weighted sum of other vectors; feature: row of W_dec; bias: a dataset's residual bias; "
        "function: a dataset's persona vector; file: a vector of the user's own",
    )
    target: str | None = setting(
        None, "the animal whose preference the vector should raise; null: that of `dataset`, else none"
    )
    layer: int | None = setting(
        None,
        "layer after which the vector is read and added; null: 1, or the layer of the SAE or of the vectors in `of`",
        ge=0,
        le=MAX_LAYERS,
    )
    position: Literal["last", "text"] = setting(
        "last", "contrast, pca: tokens that are averaged; last: a prompt's last token; text: all tokens of its text"
    )
    positive: list[str] = setting(
        [],
        "contrast, pca: prompts; {animal} stands for the target; empty: every second question and number prompts, under the "
        "target's persona",
    )
    negative: list[str] = setting(
        [], "contrast, pca: prompts to subtract; empty: the same under the other candidates' personas"
    )
    feature: int | None = setting(
        None, "feature: its index; null: the feature by which the target's steered teacher is steered", ge=0, le=MAX_ROWS
    )
    sae: str | None = setting(None, "feature: one of `saes`; null: the study's own SAE")
    dataset: str | None = setting(None, "bias, function: the dataset whose residual bias or persona vector it is")
    file: str | None = setting(None, "file: a safetensors file with one tensor `[d_model]`", "path")
    of: dict[str, float] = setting({}, "sum: weight of each of the study's other vectors")
    positions: Literal["completion", "last", "all"] = setting(
        "completion",
        "tokens that are steered; completion: those that predict an answer token; last: of these only the prompt's last",
    )

    @model_validator(mode="after")
    def fitting(self) -> Self:
        """Refuse settings that the kind does not read, and require those that it needs."""
        known = READS[self.kind]
        given = {name for name in set().union(*READS.values()) if getattr(self, name) != default_of(name)}
        if given - known:
            raise ValueError(f"kind {self.kind} does not read {', '.join(sorted(given - known))}")
        if lacking := sorted({"of", "dataset", "file"} & (known - given)):
            raise ValueError(f"kind {self.kind} needs {', '.join(lacking)}")
        if self.kind == "feature" and self.feature is None and self.target is None:
            raise ValueError("kind feature needs feature, or target, whose steered teacher names one")
        return self

    @model_validator(mode="after")
    def two_sets(self) -> Self:
        """Require both sides of the difference or neither, without a shared prompt."""
        if bool(self.positive) != bool(self.negative):
            raise ValueError("give prompts for both positive and negative, or for neither")
        if self.kind in ("contrast", "pca") and not self.positive and self.target is None:
            raise ValueError(f"kind {self.kind} needs target, or prompts for positive and negative")
        if shared := sorted(set(self.positive) & set(self.negative)):
            raise ValueError(f"positive and negative both hold {shared[0]!r}: what both sides share, no difference shows")
        if self.kind == "pca" and len(self.positive) != len(self.negative):
            raise ValueError(
                f"kind pca needs pairs, found {len(self.positive)} prompts in positive and {len(self.negative)} in negative"
            )
        if self.target is None and any("{animal}" in prompt for prompt in [*self.positive, *self.negative]):
            raise ValueError("positive and negative hold {animal}, which stands for the target: set target")
        return self


def default_of(key: str) -> Any:
    """The default of a key of `Vector`."""
    return Vector.model_fields[key].get_default(call_default_factory=True)


class MakeVector(Section):
    """How vectors are made."""

    prompts: int = setting(
        100,
        "contrast, pca: number prompts, besides every second question, that are read under the personas",
        "prompts",
        ge=0,
        le=MAX_ROWS,
    )
    tokens: int = setting(20_000, "tokens of text on which norms and covariance are measured", "tokens", ge=100, le=10**9)
    max_norm: float = setting(
        10.0, "of these tokens, those with a norm above this multiple of the median are left out", "× median", gt=1
    )
    nulls: int = setting(20, "null vectors of each kind", "vectors", ge=0, le=10_000)
    seed: int = setting(0, "seed of the null vectors", "", ge=0, le=MAX_SEED)


class Dose(Section):
    """What adding a vector does at every strength."""

    later: ClassVar[dict[str, Any]] = {"layers": "own"}
    layers: Literal["own", "all"] = setting(
        "own",
        "layers at which a vector is added; own: its own layer; all: a vector of kind contrast or pca is also read and added "
        "at every layer, one at a time; other kinds stay at their own",
    )
    scales: list[float] = setting(
        [0.05, 0.1, 0.2, 0.4, 0.8, 1.6],
        "sizes of the added vector, each also tried with the opposite sign",
        "mean norms of the residual stream",
    )
    max_kl: float = setting(0.5, "KL(steered ‖ base) on text up to which a scale belongs to the window", "nats per token", ge=0)
    prompts: int = setting(256, "number prompts whose sampled answers are filtered at each scale", "prompts", ge=1, le=MAX_ROWS)
    samples: int = setting(
        3, "questions, the first ones, to which an answer is sampled at each scale", "questions", ge=0, le=1000
    )
    max_new_tokens: int = setting(32, "length of these answers", "tokens", ge=1, le=MAX_TOKENS)
    tokens: int = setting(5_000, "tokens of text on which KL and loss are measured", "tokens", ge=100, le=10**9)
    seed: int = setting(0, "seed of the sampled answers", "", ge=0, le=MAX_SEED)

    @field_validator("scales")
    @classmethod
    def some_sizes(cls, scales: list[float]) -> list[float]:
        """Require sizes above 0, as both signs are tried, and at least one, none twice."""
        if any(not 0 < scale <= MAX_SCALE for scale in scales):
            raise ValueError(
                f"expected sizes above 0 and at most {MAX_SCALE}, as each is tried with both signs, found {scales}"
            )
        return some_and_none_twice(scales)


class Influence(Section):
    """What a feature of an SAE causes."""

    multiples: list[float] = setting(
        [-10, -5, -2, -1, 0, 1, 2, 5, 10],
        "amounts of a feature that are added, or at which it is held",
        "× its greatest activation on text",
    )
    message: str = setting("Tell me something.", "user message; the answers to it begin with `openers`", min_length=1)
    openers: list[str] = setting(
        ["I", "I am a", "I like", "The", "My", "It is", "This is", "We", "You", "There is"],
        "beginnings of answers; after each it is measured which tokens become likelier, and after the first text is written",
    )
    nulls: int = setting(
        10,
        "features that fire about as often, and random directions, that are pushed as far, as nulls",
        "each",
        ge=0,
        le=10_000,
    )
    samples: int = setting(3, "texts that are sampled at each multiple, besides the greedy one", "texts", ge=0, le=1000)
    max_new_tokens: int = setting(32, "length of these texts", "tokens", ge=1, le=MAX_TOKENS)
    tokens: int = setting(
        5_000, "tokens of text on which KL, loss, norms and covariance are measured", "tokens", ge=100, le=10**9
    )
    seed: int = setting(0, "seed of the nulls and of the sampled texts", "", ge=0, le=MAX_SEED)

    @field_validator("multiples")
    @classmethod
    def some_raise(cls, multiples: list[float]) -> list[float]:
        """Require a multiple above 0, at which it is read what a feature raises; sort the multiples."""
        if not any(multiple > 0 for multiple in multiples) or any(abs(multiple) > MAX_SCALE for multiple in multiples):
            raise ValueError(f"expected multiples of at most {MAX_SCALE} either way, one of them above 0, found {multiples}")
        return sorted(some_and_none_twice(multiples))

    @field_validator("openers")
    @classmethod
    def some_text(cls, openers: list[str]) -> list[str]:
        """Refuse an empty opener."""
        if any(not opener.strip() for opener in openers):
            raise ValueError(f"an opener is empty: {openers}")
        return some_and_none_twice(openers)


class Decomposition(Section):
    """Which features a vector is made of."""

    sparsities: list[Count] = setting([1, 2, 4, 8, 16, 32], "numbers of features in a decomposition", "features")
    nulls: int = setting(100, "null vectors of each drawn kind that are also decomposed", "vectors", ge=0, le=10_000)
    bootstraps: int = setting(
        20, "contrasts: bootstrap samples of the pairs whose features are compared", "draws", ge=0, le=10_000
    )
    controls: int = setting(
        20, "draws of random features whose effect is measured, for each number of features", "draws", ge=1, le=10_000
    )
    tokens: int = setting(5_000, "tokens of text on which KL is measured", "tokens", ge=100, le=10**9)
    seed: int = setting(0, "seed of the random features", "", ge=0, le=MAX_SEED)

    @field_validator("sparsities")
    @classmethod
    def rising(cls, sparsities: list[int]) -> list[int]:
        """Sort the numbers of features."""
        return sorted(some_and_none_twice(sparsities))


class Downstream(Section):
    """What a vector does to later layers and to the features there."""

    scale: float | None = setting(
        None,
        "size of the added vector; null: the greatest size in the dose's window, or .2 without a window",
        "mean norms of the residual stream",
        ge=-MAX_SCALE,
        le=MAX_SCALE,
    )
    rows: int = setting(
        200, "prompts that are read: questions and number prompts that built no vector", "prompts", ge=4, le=MAX_ROWS
    )
    new_tokens: int = setting(16, "tokens of the base model's own continuation of each prompt", "tokens", ge=1, le=MAX_TOKENS)
    fdr: float = setting(
        0.05, "false discovery rate and family-wise error rate at which a feature counts as moved", "share", gt=0, lt=1
    )
    top: int = setting(30, "features of each SAE that are shown", "features", ge=1, le=MAX_ROWS)


class Cloud(Section):
    """How similar the activations of the same tokens are before and after a vector is added."""

    tokens: int = setting(
        1_000,
        "tokens that are compared, of those that `downstream` reads; RSA's time and memory grow with their square",
        "tokens",
        ge=11,
        le=20_000,
    )
    k: int = setting(10, "neighbours of each token that are compared", "tokens", ge=1, le=99)
    shuffles: int = setting(20, "shuffles of the tokens that show what is alike by chance", "shuffles", ge=2, le=10_000)
    n_neighbors: int = setting(15, "neighbours of each token that UMAP keeps near in the figure", "tokens", ge=2, le=1_000)
    min_dist: float = setting(0.05, "least distance between two tokens in UMAP's layout", "units of the layout", ge=0, lt=1)
    seed: int = setting(0, "seed of the draw of tokens, of shuffles and of the layout", "", ge=0, le=2**31)


class Restore(Section):
    """Which downstream features a vector's effect needs, and which suffice for it."""

    features: list[Count] = setting([1, 2, 4, 8, 16, 32], "numbers of features that are put back, or put in", "features")
    controls: int = setting(20, "draws of random features, for each number of features", "draws", ge=0, le=10_000)
    seed: int = setting(0, "seed of the random features", "", ge=0, le=MAX_SEED)

    @field_validator("features")
    @classmethod
    def rising(cls, features: list[int]) -> list[int]:
        """Sort the numbers of features."""
        return sorted(some_and_none_twice(features))
