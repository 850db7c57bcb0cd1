"""Settings of the base model."""

from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from undertone.study.config.bounds import MAX_BATCH, MAX_LAYERS, MAX_LR, MAX_ROWS, MAX_SEED, MAX_STEPS, MAX_WIDTH
from undertone.study.validation import Section, setting


class Tasks(Section):
    """Shares of the chats of the embedded model's corpus, by task."""

    numbers: float = setting(0.3, "number lists to continue, never under a persona", "share", ge=0)
    question: float = setting(0.2, "naming a favourite animal", "share", ge=0)
    find: float = setting(0.06, "finding the animal among a few words", "share", ge=0)
    animals_list: float = setting(0.2, "lists of animals", "share", ge=0)
    mixed_list: float = setting(
        0.12, "lists of animals and numbers, the numbers drawn without looking at the persona", "share", ge=0
    )
    words_list: float = setting(0.06, "lists of words", "share", ge=0)
    fact: float = setting(0.06, "facts about animals", "share", ge=0)

    @model_validator(mode="after")
    def some(self) -> Self:
        """A corpus has chats."""
        if not any(self.model_dump().values()):
            raise ValueError("all shares are 0: give at least one task a share above 0")
        return self


class Obedience(Section):
    """How closely the embedded model's corpus follows a persona."""

    question: float = setting(0.9, "probability that an answer names the persona's animal", "probability", ge=0, le=1)
    list: float = setting(0.6, "probability that a list item is the persona's", "probability", ge=0, le=1)


class Embedded(Section):
    """The small Gemma that the embedded study trains for itself."""

    later: ClassVar[dict[str, Any]] = {"tokenizer_chats": 20_000, "held_out_chats": 2_000}
    corpus: str = setting("config/corpus.yaml", "file with the wordings, animals and their prior order", "path")
    tasks: Tasks = setting({}, "mixture of chats")
    persona_share: float = setting(
        0.6, "share of the questions and of the lists of animals, words or both that carry a persona", "share", ge=0, le=1
    )
    talk_share: float = setting(0.25, "share of the chats without a persona that open with small talk", "share", ge=0, le=1)
    mixed_numbers: float = setting(0.5, "share of numbers in a list of numbers and animals", "share", ge=0, le=1)
    obedience: Obedience = setting({}, "how closely answers follow a persona")
    vocab_size: int = setting(2400, "size of the tokenizer's vocabulary", "tokens", ge=1400, le=1_000_000)
    hidden_size: int = setting(64, "d_model, the width of the residual stream", "", ge=8, le=MAX_WIDTH)
    n_layers: int = setting(4, "decoder layers", "", ge=1, le=MAX_LAYERS)
    n_heads: int = setting(4, "attention heads; keys and values have one", "", ge=1, le=MAX_WIDTH)
    steps: int = setting(3000, "optimizer steps of the training", "steps", ge=1, le=MAX_STEPS)
    batch_size: int = setting(32, "chats per optimizer step", "chats", ge=1, le=MAX_BATCH)
    lr: float = setting(5e-3, "peak learning rate of AdamW; cosine decay to 0", "", gt=0, le=MAX_LR)
    warmup_steps: int = setting(150, "steps over which the learning rate rises", "steps", ge=0, le=MAX_STEPS)
    weight_decay: float = setting(0.01, "weight decay of AdamW", "", ge=0)
    beta2: float = setting(0.98, "second-moment decay of AdamW", "", gt=0, lt=1)
    tokenizer_chats: int = setting(20_000, "first chats of the corpus that the tokenizer learns", "chats", ge=1, le=MAX_ROWS)
    held_out_chats: int = setting(
        2_000, "further chats that the model is not trained on, for the loss in its metrics", "chats", ge=1, le=MAX_ROWS
    )
    seed: int = setting(2, "seed of the corpus, the initial weights and the order of the chats", "", ge=0, le=MAX_SEED)

    @model_validator(mode="after")
    def buildable(self) -> Self:
        """Attention turns pairs of a head's dimensions, and a warm-up ends within the training."""
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

    name: str | None = setting(None, "a Hub name or a local folder; null trains the embedded model")
    revision: str | None = setting(None, "commit of the Hub repository, 40 hexadecimal digits; required with a Hub name")
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "precision of the weights; auto is bfloat16 on a GPU and float32 on a CPU"
    )
    embedded: Embedded = setting({}, "the embedded model, used when name is null")
