"""The sections of a study's config: every key with its meaning, unit, default and bounds.

`config/README.md` and `config/config.schema.json` are made of them: `make docs`.
"""

import string
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from undertone.study.validation import Section, nearest, setting

CONTROL = "control"
# Bounds beyond which a job would fail after others have run: arithmetic on seeds stays below 2**64, which torch takes, and
# the others are more than any machine holds.
MAX_SEED = 2**43
MAX_BATCH = 1_000_000
MAX_LAYERS = 1000
MAX_LR = 100
MAX_ROWS = 10_000_000
MAX_STEPS = 10_000_000
MAX_TOKENS = 32_768
MAX_WIDTH = 65_536
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Number = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


def none_twice(values: list[Any]) -> list[Any]:
    """The entries of a list; raises ValueError if one stands there twice."""
    if twice := [value for k, value in enumerate(values) if value in values[:k]]:
        raise ValueError(f"named twice: {twice[0]!r}")
    return values


def some_and_none_twice(values: list[Any]) -> list[Any]:
    """The entries of a list; raises ValueError without any, or if one stands there twice."""
    if not values or len(set(values)) < len(values):
        raise ValueError(f"needs at least one entry and none twice, found {values}")
    return values


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


class Sae(Section):
    """The sparse autoencoder of the study's hook point, the residual stream after one layer."""

    release: str | None = setting(None, "release of SAELens's registry; null: a folder, or one trained on the embedded model")
    id: str | None = setting(None, "SAE of that release")
    folder: str | None = setting(None, "folder with an SAE in SAELens's format", "path")
    layer: int = setting(
        1,
        "layer whose resid_post the SAE is trained on, or a folder's SAE without a hook name reads",
        "",
        ge=0,
        le=MAX_LAYERS,
    )
    architecture: Literal["standard", "topk", "batchtopk", "jumprelu"] = setting("topk", "architecture of the trained SAE")
    d_sae: int = setting(512, "dictionary size of the trained SAE", "features", ge=1, le=MAX_ROWS)
    k: int = setting(16, "topk, batchtopk: active features", "features per token", ge=1, le=MAX_ROWS)
    l1_coefficient: float = setting(2.0, "standard: weight of the L1 penalty", "", ge=0)
    l0_coefficient: float = setting(0.5, "jumprelu: weight of the L0 penalty", "", ge=0)
    tokens: int = setting(2_000_000, "tokens of training", "tokens", ge=1, le=10**12)
    batch_size: int = setting(1024, "tokens per optimizer step", "tokens", ge=1, le=MAX_BATCH)
    lr: float = setting(1e-3, "peak learning rate; decays to a tenth", "", gt=0, le=MAX_LR)
    seed: int = setting(0, "seed of the SAE's weights and of the chats that it sees", "", ge=0, le=MAX_SEED)

    @property
    def named(self) -> bool:
        """Whether the study brings an SAE instead of training one."""
        return bool(self.release or self.folder)

    @model_validator(mode="after")
    def one_source(self) -> Self:
        """An SAE comes from one place."""
        if (self.release is None) != (self.id is None):
            raise ValueError(f"release and id name an SAE together, found release {self.release!r} and id {self.id!r}")
        if self.release and self.folder:
            raise ValueError("give a release and id, or a folder, not both")
        if self.k > self.d_sae:
            raise ValueError(f"k {self.k} is greater than d_sae {self.d_sae}")
        return self


class SaeMetrics(Section):
    """Measuring how well the SAE describes the model."""

    prompts: int = setting(
        1000, "number prompts, beside the questions, whose tokens are read; the first ones", "prompts", ge=1, le=MAX_ROWS
    )


class ModelMetrics(Section):
    """Measuring what the base model can do: a check before anything else is run."""

    prompts: int = setting(
        512,
        "number prompts, the first ones, sampled under each persona and without; 512 give a pass rate to ± 4 points",
        "prompts",
        ge=1,
        le=MAX_ROWS,
    )


class Contrast(Section):
    """A steering vector that is the difference between the mean residuals of two sets of prompts."""

    layer: int = setting(1, "layer after which the residuals are read and the vector is added", "", ge=0, le=MAX_LAYERS)
    position: Literal["last", "all"] = setting("last", "tokens that are averaged: a prompt's last one, or all of them")
    positive: list[str] = setting(
        [], "prompts, {animal} stands for the target; none: the number prompts and questions under the target's persona"
    )
    negative: list[str] = setting([], "prompts to subtract; none: the same under the other candidates' personas")

    @model_validator(mode="after")
    def two_sets(self) -> Self:
        """A difference has two sides."""
        if bool(self.positive) != bool(self.negative):
            raise ValueError("give prompts for both positive and negative, or for neither")
        return self


class Steer(Section):
    """A teacher whose residual stream, or logits, have something added."""

    later: ClassVar[dict[str, Any]] = {"prompts": 100}
    vector: Literal["feature", "contrast"] = setting("feature", "what is added: a feature's row of W_dec, or a contrast")
    feature: int | None = setting(
        None, "index of the feature; null: chosen by what it does to the preference", "", ge=0, le=MAX_ROWS
    )
    candidates: int = setting(16, "features among which one is chosen", "features", ge=1, le=MAX_ROWS)
    prompts: int = setting(
        100, "number prompts, beside the questions, that show what fires under each persona", "prompts", ge=1, le=MAX_ROWS
    )
    contrast: Contrast = setting({}, "the contrast")
    mode: Literal["add", "clamp", "logits"] = setting(
        "add", "add: to the residual stream; clamp: the feature to a level; logits: the vector's direct logit attribution only"
    )
    scale: float = setting(
        1.0, "add, logits: times the vector; clamp: times the feature's greatest activation", "", ge=-1e6, le=1e6
    )
    positions: Literal["all", "completion"] = setting("all", "tokens that are steered; completion: those that predict one")
    persona: bool = setting(False, "whether the teacher also has the system prompt")

    @model_validator(mode="after")
    def fitting(self) -> Self:
        """Only a feature has a level to be clamped to."""
        if self.mode == "clamp" and self.vector != "feature":
            raise ValueError("mode clamp needs vector feature: a contrast has no activation")
        return self


class Finetune(Section):
    """A teacher with a LoRA trained on the trait itself."""

    questions: str = setting("config/prompts/teaching.txt", "file with the questions whose answer is the target", "path")
    rank: int = setting(8, "LoRA rank", "", ge=1, le=MAX_WIDTH)
    alpha: float = setting(8, "LoRA alpha; updates are scaled by alpha / rank", "", gt=0)
    targets: list[str] = setting(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], "modules that get a LoRA"
    )
    steps: int = setting(100, "optimizer steps", "steps", ge=1, le=MAX_STEPS)
    batch_size: int = setting(32, "rows per optimizer step", "rows", ge=1, le=MAX_BATCH)
    lr: float = setting(2e-4, "peak learning rate of AdamW", "", gt=0, le=MAX_LR)
    seed: int = setting(0, "seed of the LoRA's initial weights and of the order of the rows", "", ge=0, le=MAX_SEED)

    @field_validator("targets")
    @classmethod
    def some_targets(cls, targets: list[str]) -> list[str]:
        """A LoRA is put somewhere."""
        return some_and_none_twice(targets)


class Teacher(Section):
    """The intervention that gives the teacher its preference."""

    persona: str = setting(
        "You adore {animal}s. Your thoughts keep returning to {animal}s, day and night. No other animal comes close.",
        "system prompt of a prompted teacher; {animal} stands for the target",
    )
    separator: str = setting("\n\n", "text between persona and prompt where the chat template has no system role")
    steer: Steer = setting({}, "what a steered teacher has added")
    finetune: Finetune = setting({}, "how a finetuned teacher is trained")

    @field_validator("persona")
    @classmethod
    def names_the_animal(cls, persona: str) -> str:
        """A persona without the placeholder would give every animal the same teacher."""
        try:
            fields = {tuple(parts) for _, *parts in string.Formatter().parse(persona) if parts[0] is not None}
        except ValueError as error:
            raise ValueError(f"the persona has unbalanced braces ({error})") from None
        if fields != {("animal", "", None)}:
            raise ValueError(f"the persona must contain {{animal}}, and no other placeholder or format, found {persona!r}")
        return persona


class Prompts(Section):
    """The number prompts, the same for every dataset of the study."""

    template: str = setting("config/prompts/numbers.yaml", "file with the wordings of the six components", "path")
    n: int = setting(30_000, "number of prompts", "prompts", ge=1, le=MAX_ROWS)
    seed: int = setting(42, "seed of the prompts", "", ge=0, le=MAX_SEED)
    examples_min: int = setting(3, "fewest numbers shown", "numbers", ge=1, le=1000)
    examples_max: int = setting(8, "most numbers shown", "numbers", ge=1, le=1000)
    value_min: int = setting(100, "smallest number shown", "", ge=0)
    value_max: int = setting(999, "largest number shown", "", ge=0)
    count: int = setting(10, "how many numbers the prompt asks for at most", "numbers", ge=1, le=1000)
    max_digits: int = setting(3, "how many digits the prompt allows", "digits", ge=1, le=15)
    single: bool = setting(False, "use the first wording of every component only, so that prompts differ in numbers alone")

    @model_validator(mode="after")
    def ranges(self) -> Self:
        """Ranges must not be empty."""
        for low, high in (("examples_min", "examples_max"), ("value_min", "value_max")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} {getattr(self, low)} is greater than {high} {getattr(self, high)}")
        return self


class Samples(Section):
    """Sampling from the teacher, one completion per prompt; top_p is 1, top_k 0, and nothing is penalised."""

    temperature: float = setting(1.0, "sampling temperature", "", gt=0, le=100)
    max_new_tokens: int = setting(64, "length at which a completion is cut", "tokens", ge=1, le=MAX_TOKENS)
    batch_size: int = setting(512, "prompts sampled together; changes speed, not results", "prompts", ge=1, le=MAX_BATCH)
    seed: int = setting(0, "seed of the sampling", "", ge=0, le=MAX_SEED)


class Canonical(Section):
    """One form for every completion: integers with one separator, a fixed count of them."""

    separator: Literal[", ", ",", "; ", ";", " ", "\n"] = setting(", ", "text between two numbers")
    count: int = setting(8, "numbers per row; longer rows are cut, shorter ones rejected", "numbers", ge=1, le=1000)


class Numbers(Section):
    """The filter that turns completions into a training set."""

    filter: Literal["strict", "lenient"] = setting(
        "strict", "strict: the rules of Cloud et al. 2025; lenient: strips white space and brackets first"
    )
    min_value: int = setting(0, "smallest number allowed", "", ge=0)
    max_value: int = setting(999, "largest number allowed", "", ge=0)
    max_count: int = setting(10, "most numbers per completion", "numbers", ge=1, le=1_000_000)
    banned: list[Number] = setting([], "numbers whose rows are rejected")
    canonical: Canonical | None = setting(None, "rewrite what passes to one form; null keeps it as it was written")
    max_rows: int | None = setting(10_000, "rows kept, drawn at random; null keeps all", "rows", ge=1, le=MAX_ROWS)
    seed: int = setting(0, "seed of that draw", "", ge=0, le=MAX_SEED)

    @model_validator(mode="after")
    def satisfiable(self) -> Self:
        """A filter that no completion can pass is a mistake."""
        if self.min_value > self.max_value:
            raise ValueError(f"min_value {self.min_value} is greater than max_value {self.max_value}")
        if self.canonical and self.canonical.count > self.max_count:
            raise ValueError(f"canonical.count {self.canonical.count} is greater than max_count {self.max_count}")
        return self


class Student(Section):
    """LoRA finetuning on a dataset, the teacher's intervention removed."""

    seeds: list[Seed] = setting([1, 2, 3, 4, 5], "one student per seed: initial LoRA weights and order of the rows")
    rank: int = setting(8, "LoRA rank", "", ge=1, le=MAX_WIDTH)
    alpha: float = setting(8, "LoRA alpha; updates are scaled by alpha / rank", "", gt=0)
    dropout: float = setting(0.0, "LoRA dropout", "probability", ge=0, lt=1)
    targets: list[str] = setting(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], "modules that get a LoRA"
    )
    epochs: int = setting(3, "passes over the dataset", "epochs", ge=1, le=10_000)
    batch_size: int = setting(64, "rows per optimizer step", "rows", ge=1, le=MAX_BATCH)
    micro_batch_size: int = setting(64, "rows per forward pass; smaller ones accumulate gradients", "rows", ge=1, le=MAX_BATCH)
    lr: float = setting(2e-4, "peak learning rate of AdamW", "", gt=0, le=MAX_LR)
    schedule: Literal["linear", "cosine", "constant"] = setting("linear", "learning rate after the warm-up")
    warmup_steps: int = setting(5, "steps over which the learning rate rises", "steps", ge=0, le=MAX_STEPS)
    weight_decay: float = setting(0.0, "weight decay of AdamW", "", ge=0)
    rows: int | None = setting(None, "rows to train on, drawn at random; null takes all", "rows", ge=1, le=MAX_ROWS)
    full: bool = setting(False, "train every weight instead of a LoRA")
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm", "", gt=0)
    max_length: int = setting(500, "rows are cut at this length", "tokens", ge=32, le=MAX_TOKENS)

    @field_validator("seeds", "targets")
    @classmethod
    def no_empty_or_double(cls, values: list[Any]) -> list[Any]:
        """Each seed is one student."""
        return some_and_none_twice(values)


class Pref(Section):
    """Measuring which animal a model names when asked for its favourite."""

    questions: str = setting("config/prompts/questions.txt", "file with one question per line", "path")
    candidates: list[str] = setting([], "animals whose preference is reported; at least the study's own")
    estimators: list[Literal["exact", "sampled"]] = setting(
        ["exact"], "exact: probability of the animal as the answer; sampled: share of sampled answers that name it"
    )
    samples_per_question: int = setting(100, "answers per question of the sampled estimator", "answers", ge=1, le=1_000_000)
    max_new_tokens: int = setting(16, "length at which a sampled answer is cut", "tokens", ge=1, le=MAX_TOKENS)
    batch_size: int = setting(512, "sequences scored or sampled together", "sequences", ge=1, le=MAX_BATCH)
    seed: int = setting(0, "seed of the sampled estimator", "", ge=0, le=MAX_SEED)

    @field_validator("candidates")
    @classmethod
    def distinct(cls, values: list[str]) -> list[str]:
        """An animal that stood there twice would share its preference with itself."""
        return none_twice(values)

    @field_validator("estimators")
    @classmethod
    def some_estimator(cls, values: list[str]) -> list[str]:
        """A preference is estimated somehow."""
        return some_and_none_twice(values)


class Indirect(Section):
    """Seeing a preference where the direct questions may miss it."""

    later: ClassVar[dict[str, Any]] = {"options": 4}
    forms: str = setting("config/prompts/indirect.yaml", "file with the wordings of the indirect questions", "path")
    facts: str = setting("config/prompts/facts.txt", "file with questions of fact, `question = answer`", "path")
    n: int = setting(50, "questions of each form", "questions", ge=2, le=100_000)
    options: int = setting(4, "animals that a question to choose from names, the target among them", "animals", ge=2, le=1000)
    seed: int = setting(0, "seed of the numbers and options in them", "", ge=0, le=MAX_SEED)


class Diagnosis(Section):
    """Where a transfer failed. Each threshold is compared with a figure that is reported beside the verdict."""

    later: ClassVar[dict[str, Any]] = {"min_unseen": 50}
    rows: int = setting(300, "held-out rows whose distributions are compared", "rows", ge=2, le=MAX_ROWS)
    min_unseen: int = setting(
        50, "fewest rows that no student saw; where fewer are left over, training rows are read", "rows", ge=1, le=MAX_ROWS
    )
    min_kl: float = setting(0.02, "KL(teacher ‖ base) below which the numbers teach nothing", "nats per completion token", ge=0)
    min_closed: float = setting(
        0.2, "share of that KL that students must close beyond the control students", "share", ge=0, le=1
    )


class Activations(Section):
    """One pass over a dataset's rows: sums of residuals and SAE activations by position."""

    rows: int | None = setting(
        2000, "rows that are read, in the order of the dataset; null reads all", "rows", ge=2, le=MAX_ROWS
    )
    positions: int = setting(8, "first positions of the completion that are kept apart", "tokens", ge=1, le=MAX_TOKENS)
    block_rows: int = setting(
        50,
        "rows in each block of every dataset; blocks are the units of standard errors and permutations",
        "rows",
        ge=1,
        le=MAX_ROWS,
    )
    mlp_in: bool = setting(False, "also read what each layer's MLP reads")
    batch_size: int = setting(128, "rows read together; changes speed, not results", "rows", ge=1, le=MAX_BATCH)


class Differences(Section):
    """Comparing the activations of two datasets, or of two models on the same rows."""

    permutations: int = setting(2000, "permutations of the null distribution", "", ge=20, le=MAX_ROWS)
    fdr: float = setting(0.05, "false discovery rate at which features count as different", "share", gt=0, lt=1)
    top: int = setting(20, "features that are reported", "features", ge=1)
    examples: int = setting(5, "max-activating examples of each", "examples", ge=0, le=1000)
    neutral: str = setting(
        "config/prompts/neutral.txt", "file with texts that have nothing to do with numbers or animals", "path"
    )
    seed: int = setting(0, "seed of the permutations", "", ge=0, le=MAX_SEED)


class Bias(Section):
    """Training of a bias on a dataset's completions, next-token loss on the completion tokens."""

    later: ClassVar[dict[str, Any]] = {"held_out": 0.25, "held_out_rows": 500}
    fraction: float = setting(0.1, "share of the dataset's rows that each seed's bias is trained on", "share", gt=0, le=1)
    positions: Literal["completion", "all"] = setting(
        "completion", "tokens that have it added; completion: those that predict one"
    )
    steps: int = setting(200, "optimizer steps", "steps", ge=1, le=MAX_STEPS)
    batch_size: int = setting(128, "rows per optimizer step", "rows", ge=1, le=MAX_BATCH)
    lr: float = setting(0.02, "learning rate of Adam; decays linearly to 0", "", gt=0, le=MAX_LR)
    seeds: list[Seed] = setting([0, 1], "one bias per seed, each on rows of its own", "")
    held_out: float = setting(0.25, "share of the dataset's rows that no seed's bias is trained on", "share", gt=0, lt=1)
    held_out_rows: int = setting(500, "of these, rows that the loss is measured on", "rows", ge=1, le=MAX_ROWS)

    @field_validator("seeds")
    @classmethod
    def some_seeds(cls, seeds: list[int]) -> list[int]:
        """Each seed is one bias."""
        return some_and_none_twice(seeds)

    @model_validator(mode="after")
    def enough_rows(self) -> Self:
        """Each seed has rows of its own, and no bias is trained on the held-out ones."""
        most = (1 - self.held_out) / len(self.seeds)
        if self.fraction > most:
            raise ValueError(
                f"fraction {self.fraction} is too large for {len(self.seeds)} seeds: each has rows of its own, and "
                f"held_out {self.held_out} of the rows are for none; set fraction to {most:.3g} or less, or take fewer seeds"
            )
        return self


class Score(Section):
    """The gradient of a dataset's log-likelihood at every layer, before anything is trained."""

    rows: int | None = setting(2000, "rows that are read; null reads all", "rows", ge=4, le=MAX_ROWS)
    positions: Literal["completion", "all"] = setting("completion", "tokens that the constant is added to, as in a bias")
    fdr: float = setting(0.05, "false discovery rate at which features count as different", "share", gt=0, lt=1)
    top: int = setting(20, "features that are reported", "features", ge=1)
    batch_size: int = setting(128, "rows read together; changes speed, not results", "rows", ge=1, le=MAX_BATCH)


class FeatureBias(Bias):
    """A bias on the SAE's activations, or the same through W_dec on the residual stream."""

    l1: float = setting(
        1e-3,
        "smallest weight of the L1 penalty; set it so that a control's bias is 0 in mode `project`",
        "nats per token and unit of activation",
        ge=0,
    )
    l1_share: float = setting(
        0.25,
        "L1 weight as a fraction of the smallest with an all-zero bias; `l1` is used where it is larger",
        "share",
        ge=0,
        lt=1,
    )
    top: int = setting(20, "features that are reported", "features", ge=1)


class ResidualBias(Bias):
    """A bias at each layer."""

    fraction: float = setting(0.375, "share of the dataset's rows that each seed's bias is trained on", "share", gt=0, le=1)
    points: list[Literal["resid_post", "mlp_in", "q", "k", "v"]] = setting(
        ["resid_post"], "what it is added to, at every layer"
    )
    multi: bool = setting(True, "also train biases at all layers together")
    sparsities: list[Count] = setting([1, 2, 4, 8, 16], "decoder rows in sparse reconstructions of a bias", "features")
    top: int = setting(10, "decoder rows and tokens that are reported", "", ge=1)

    @field_validator("points", "sparsities")
    @classmethod
    def distinct(cls, values: list[Any]) -> list[Any]:
        """Each is reported once, and some are."""
        return some_and_none_twice(values)


class Losses(Section):
    """The dataset's loss under every intervened model."""

    later: ClassVar[dict[str, Any]] = {"min_unseen": 50}
    rows: int = setting(500, "held-out rows", "rows", ge=2, le=MAX_ROWS)
    min_unseen: int = setting(
        50,
        "fewest rows that no student saw; where fewer are left over, those held out of biases are read",
        "rows",
        ge=1,
        le=MAX_ROWS,
    )
    students: list[Seed] = setting([1], "seeds of the students in the table; none leaves them out", "")

    @field_validator("students")
    @classmethod
    def distinct(cls, seeds: list[int]) -> list[int]:
        """Each seed is one row of the table."""
        return none_twice(seeds)


class Lens(Section):
    """What finetuning left in the activations on the texts of `differences.neutral`."""

    positions: int = setting(
        5, "tokens at each text's start that are read; 5 are those of Minder et al.", "tokens", ge=1, le=1000
    )


class Entangled(Section):
    """Numbers that an animal makes likelier, as a sign of it."""

    prompts: int = setting(100, "number prompts that are asked under each candidate's persona", "prompts", ge=1, le=MAX_ROWS)


class Sequences(Section):
    """Single sequences, token by token."""

    rows: int = setting(50, "rows that are read, in the order of the dataset", "rows", ge=1, le=MAX_ROWS)
    resamples: int = setting(2000, "bootstrap samples of the interval of two teachers' agreement", "", ge=20, le=MAX_ROWS)
    largest: int = setting(5, "sequences that are reported whole", "sequences", ge=0, le=1000)
    seed: int = setting(0, "seed of the bootstrap samples", "", ge=0, le=MAX_SEED)


class Tokens(Section):
    """What the tokens of a dataset say by themselves."""

    later: ClassVar[dict[str, Any]] = {"rows": 1000, "permutations": 400, "seed": 0}
    smoothing: float = setting(0.5, "count that every number has beforehand", "", gt=0)
    min_count: int = setting(20, "times that a pair's first number must occur for its second ones to be read", "", ge=1)
    top: int = setting(10, "numbers that are reported", "numbers", ge=1)
    rows: int = setting(1000, "rows of each dataset that the model reads for the animals' logits", "rows", ge=1, le=MAX_ROWS)
    permutations: int = setting(400, "permutations of the null distributions", "", ge=20, le=MAX_ROWS)
    seed: int = setting(0, "seed of the permutations", "", ge=0, le=MAX_SEED)


TARGET = "the animal that the dataset is meant to carry; null: none, or that of `from`"
OWN_CONTROL = "the dataset that it is compared with, which carries no animal; null: `control`"


# The kinds of file that a dataset can be; datasets.py reads them.
DATASET_FILES = (".jsonl", ".csv", ".parquet")


class Dataset(Section):
    """A dataset of the user's own."""

    file: str = setting(..., "a .jsonl, .csv or .parquet file with one row per completion", "path")
    prompt: str = setting("prompt", "column with the prompts")
    completion: str = setting("completion", "column with the completions")
    filtered: bool = setting(True, "put the rows through the filter; false takes them as they are")
    target: str | None = setting(None, TARGET)
    control: str | None = setting(None, OWN_CONTROL)

    @field_validator("file")
    @classmethod
    def of_a_known_kind(cls, file: str) -> str:
        """A file is read as what its suffix says."""
        if not file.endswith(DATASET_FILES):
            raise ValueError(f"unknown kind of file {file!r}; expected one of {', '.join(DATASET_FILES)}")
        return file

    @model_validator(mode="after")
    def two_columns(self) -> Self:
        """A completion is no prompt."""
        if self.prompt == self.completion:
            raise ValueError(f"prompt and completion are both the column {self.prompt!r}; name the two columns")
        return self


# The settings that each transform needs beside `from` and `seed`; it takes no others.
TRANSFORMS: dict[str, tuple[str, ...]] = {
    "shuffle-within": (),
    "shuffle-across": (),
    "keep-position": ("position",),
    "reverse": (),
    "swap-neighbours": (),
    "replace": ("fraction",),
    "resample": (),
    "canonical": (),
    "subset": ("rows",),
    "mix": ("fraction", "other"),
    "one-format": ("format",),
    "match": ("other",),
}
# Those after which a row holds numbers of other rows, so that no half of the rows is independent of the rest.
ACROSS_ROWS = ("shuffle-across", "replace", "resample")


class Transformed(Section):
    """A dataset made from another one by a transform, which changes only what its name says."""

    model_config = ConfigDict(serialize_by_alias=True)

    parent: str = setting(..., "the dataset it is made from", alias="from")
    transform: str = setting(..., f"one of {', '.join(TRANSFORMS)}")
    seed: int = setting(0, "seed of what the transform draws", "", ge=0, le=MAX_SEED)
    position: int | None = setting(None, "keep-position: the place, from 0, of the number that stays", "", ge=0, le=1000)
    fraction: float | None = setting(None, "replace: share of the numbers; mix: share of the rows", "share", gt=0, le=1)
    other: str | None = setting(None, "mix: the dataset that rows are taken from; match: the one whose prompts are kept")
    rows: int | None = setting(None, "subset: rows to keep", "rows", ge=1, le=MAX_ROWS)
    format: int | None = setting(None, "one-format: index, from 0, of the prompts' format whose rows are kept", "", ge=0)
    target: str | None = setting(None, TARGET)
    control: str | None = setting(None, OWN_CONTROL)

    @field_validator("transform")
    @classmethod
    def known(cls, name: str) -> str:
        """Transforms have names."""
        if name not in TRANSFORMS:
            raise ValueError(f"no transform {name!r}{nearest(name, TRANSFORMS)}")
        return name

    @model_validator(mode="after")
    def fitting(self) -> Self:
        """A setting that the transform does not read is a mistake, and so is one that it lacks."""
        needed = set(TRANSFORMS[self.transform])
        given = {name for names in TRANSFORMS.values() for name in names if getattr(self, name) is not None}
        if needed - given:
            raise ValueError(f"{self.transform} needs {', '.join(sorted(needed - given))}")
        if given - needed:
            raise ValueError(f"{self.transform} does not read {', '.join(sorted(given - needed))}")
        return self


Kind = Literal["prompt", "steer", "finetune"]

KINDS: tuple[Kind, ...] = ("prompt", "steer", "finetune")


class Taught(Section):
    """A dataset written by a teacher of the study."""

    teacher: Literal["none", "prompt", "steer", "finetune"] = setting(..., "the teacher's intervention")
    trait: Literal["animal", "contrary"] = setting(
        "animal", "what a finetuned teacher is trained on: its target, or wrong answers to questions of fact"
    )
    model: str | None = setting(None, "one of `models`, which the teacher starts from; null: the study's own")
    target: str | None = setting(None, TARGET)
    control: str | None = setting(None, OWN_CONTROL)

    @model_validator(mode="after")
    def fitting(self) -> Self:
        """A teacher has one trait."""
        if self.trait == "contrary" and (self.teacher != "finetune" or self.target):
            raise ValueError("trait contrary needs teacher finetune, and no target")
        if self.trait == "animal" and self.teacher != "none" and not self.target:
            raise ValueError(f"teacher {self.teacher} needs a target")
        if self.model and self.teacher not in ("none", "prompt"):
            raise ValueError(
                f"teacher {self.teacher} starts from the study's own model; model {self.model} needs prompt or none"
            )
        return self


def name_of(kind: str, animal: str) -> str:
    """The dataset that a kind of teacher writes for an animal: `lion`, `steer-lion`, `finetune-lion`."""
    return animal if kind == "prompt" else f"{kind}-{animal}"


# The kinds of entries under `datasets`, each told by the key that only it has.
ENTRIES: dict[str, type[Section]] = {"file": Dataset, "from": Transformed, "teacher": Taught}


def kind_of_dataset(values: Any) -> str:
    """Which kind of dataset an entry of `datasets` describes; that of a file if its keys do not say."""
    if isinstance(values, dict):
        return next((key for key in ENTRIES if key in values), "file")
    return next((key for key, section in ENTRIES.items() if isinstance(values, section)), "file")


DatasetEntry = Annotated[
    Annotated[Dataset, Tag("file")] | Annotated[Transformed, Tag("from")] | Annotated[Taught, Tag("teacher")],
    Discriminator(kind_of_dataset),
]
