"""Settings of the SAE."""

from typing import Any, ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from undertone.study.config.bounds import MAX_BATCH, MAX_LAYERS, MAX_LR, MAX_ROWS, MAX_SEED, MAX_TOKENS
from undertone.study.config.entries import commit, hub_dataset
from undertone.study.validation import Section, setting

# The kinds of file that text is read from; documents.py reads them.
TEXT_FILES = (".txt", ".jsonl", ".parquet")


class TextSource(Section):
    """Text that the SAE of a named model is trained on."""

    file: str | None = setting(
        None, "a .txt file, one running text, or a .jsonl or .parquet file with one document per row", "path"
    )
    hub: str | None = setting(
        None, "instead of file: name of a dataset of the Hub, OWNER/NAME; no more of it is read than is needed"
    )
    revision: str | None = setting(None, "hub: commit of its repository, 40 hexadecimal digits")
    subset: str | None = setting(None, "hub: configuration of the dataset, if it has several")
    split: str = setting("train", "hub: split")
    column: str = setting("text", "column with the documents")
    samples: Literal["control"] | None = setting(
        None, "instead of file: the control's number prompts with the model's own answers"
    )
    share: float | None = setting(
        None, "share of the tokens; null: an equal part of what is left by the sources with a share", "share", gt=0, le=1
    )

    @property
    def title(self) -> str:
        """What messages call it."""
        return self.file or (f"{self.hub} at {self.revision}" if self.hub else f"{self.samples}/samples.parquet")

    _of_the_hub = field_validator("hub")(hub_dataset)
    _at_a_commit = field_validator("revision")(commit)

    @field_validator("file")
    @classmethod
    def of_a_known_kind(cls, file: str | None) -> str | None:
        """Require a known suffix, which determines how the file is read."""
        if file is not None and not file.endswith(TEXT_FILES):
            raise ValueError(f"unknown kind of file {file!r}; expected one of {', '.join(TEXT_FILES)}")
        return file

    @model_validator(mode="after")
    def one_place(self) -> Self:
        """Require exactly one source, and for the Hub a commit: a branch or a tag may mean other text tomorrow."""
        if sum(place is not None for place in (self.file, self.hub, self.samples)) != 1:
            raise ValueError("a source of text is one of file, hub and samples; give exactly one of them")
        if self.hub is None and (self.revision or self.subset):
            raise ValueError("revision and subset are of a dataset of the Hub; set hub, or leave them out")
        if self.hub is not None and self.revision is None:
            raise ValueError(f"{self.hub} needs a revision, the commit of its repository: 40 hexadecimal digits")
        return self


def sae_keys(entry: dict[str, Any]) -> dict[str, Any]:
    """The keys of an entry of `saes` that describe the SAE itself."""
    return {key: value for key, value in entry.items() if key != "model"}


class Sae(Section):
    """The sparse autoencoder of the study's hook point, the residual stream after one layer."""

    later: ClassVar[dict[str, Any]] = {
        "text": [],
        "context": 128,
        "max_norm": 10.0,
        "dead_steps": 1_000,
        "point": "resid_post",
        "cached": False,
    }
    release: str | None = setting(None, "release of SAELens's registry; null: the SAE is a folder, or is trained here")
    id: str | None = setting(None, "SAE of that release")
    folder: str | None = setting(None, "folder with an SAE in SAELens's format", "path")
    layer: int = setting(
        1,
        "layer whose resid_post the SAE is trained on, or which an SAE from a folder reads if it has no hook name",
        "",
        ge=0,
        le=MAX_LAYERS,
    )
    point: Literal["resid_post", "mlp_out"] = setting(
        "resid_post",
        "what the SAE reads: the residual stream after the layer, or (in entries of `saes` only) what the layer's MLP adds",
    )
    architecture: Literal["standard", "topk", "batchtopk", "jumprelu"] = setting("topk", "architecture of the trained SAE")
    d_sae: int = setting(512, "dictionary size of the trained SAE", "features", ge=1, le=MAX_ROWS)
    k: int = setting(16, "topk, batchtopk: active features", "features per token", ge=1, le=MAX_ROWS)
    l1_coefficient: float = setting(2.0, "standard: weight of the L1 penalty", "", ge=0)
    l0_coefficient: float = setting(0.5, "jumprelu: weight of the L0 penalty", "", ge=0)
    tokens: int = setting(2_000_000, "training tokens", "tokens", ge=1, le=10**12)
    batch_size: int = setting(1024, "tokens per optimizer step", "tokens", ge=1, le=MAX_BATCH)
    lr: float = setting(1e-3, "peak learning rate; decays to a tenth", "", gt=0, le=MAX_LR)
    seed: int = setting(
        0, "seed of the SAE's initial weights, and of the chats or the order of the text that it sees", "", ge=0, le=MAX_SEED
    )
    cached: bool = setting(
        False,
        "train from activations on disk (`store/`), which SAEs of one hook point share, instead of computing them each time",
    )
    max_norm: float = setting(
        10.0, "tokens with a norm above this multiple of the median are left out of the training", "× median", gt=1
    )
    dead_steps: int = setting(
        1_000,
        "topk, batchtopk: a feature that is silent for this many steps is trained on the error that the others leave; a "
        "shorter training revives no feature",
        "optimizer steps",
        ge=1,
        le=10**9,
    )
    text: list[TextSource] = setting(
        [],
        "text on which a named model's SAE is trained; without it no SAE is trained for a named model; the embedded model's "
        "SAE is trained on chats",
    )
    context: int = setting(
        128,
        "length to which text is cut, including the special token in front with which the model's chats begin",
        "tokens",
        ge=2,
        le=MAX_TOKENS,
    )

    @property
    def named(self) -> bool:
        """Whether the study brings an SAE instead of training one."""
        return bool(self.release or self.folder)

    @model_validator(mode="after")
    def one_source(self) -> Self:
        """Check that the SAE has one source, and that its settings fit it."""
        if (self.release is None) != (self.id is None):
            raise ValueError(f"release and id name an SAE together, found release {self.release!r} and id {self.id!r}")
        if self.release and self.folder:
            raise ValueError("give a release and id, or a folder, not both")
        if self.cached and self.named:
            raise ValueError("cached is for training, and release or folder name an SAE that exists: set one of them")
        if self.k > self.d_sae:
            raise ValueError(f"k {self.k} is greater than d_sae {self.d_sae}")
        if self.text and self.named:
            raise ValueError("text is what an SAE is trained on, and release or folder name one that exists: set one of them")
        shares(self.text)
        return self


def shares(text: list[TextSource]) -> list[float]:
    """Each source's share of the tokens. Raises ValueError unless they can add up to 1."""
    given = sum(source.share or 0.0 for source in text)
    without = sum(source.share is None for source in text)
    if without and given >= 1:
        raise ValueError(f"the shares of text add up to {given:g}, and a source without one takes the rest: give less than 1")
    if text and not without and abs(given - 1) > 1e-6:
        raise ValueError(f"the shares of text add up to {given:g}, expected 1")
    return [(1 - given) / without if source.share is None else source.share for source in text]


class Store(Section):
    """Activations on disk."""

    shards: int = setting(16, "files of a store; one of them is in memory at a time", "files", ge=1, le=1_000)
    dtype: Literal["float16", "float32"] = setting("float16", "precision; activations that float16 cannot hold are refused", "")
    seed: int = setting(0, "seed of the order of tokens", "", ge=0, le=MAX_SEED)


class SaeMetrics(Section):
    """Measuring how well the SAE describes the model."""

    prompts: int = setting(
        1000,
        "number prompts, the first ones, whose tokens are read besides those of the questions",
        "prompts",
        ge=1,
        le=MAX_ROWS,
    )
    text: int = setting(
        50_000,
        "tokens of text that neither model nor SAE was trained on; they are measured separately",
        "tokens",
        ge=1,
        le=10**9,
    )
