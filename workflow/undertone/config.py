"""The study's settings: every key with its meaning, unit and default, in one place.

`config/README.md` and `config/config.schema.json` are generated from here: `python -m undertone.config`.
"""

import difflib
import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

CONTROL = "control"
# Folders directly under the results root that are no datasets.
RESERVED = ("model", "sae", "plots", "tables")


class ConfigError(ValueError):
    """A setting that cannot be used; the message says which, what was found and what is expected."""


class Section(BaseModel):
    """A group of settings; keys it does not know are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), validate_default=True)


S = TypeVar("S", bound=Section)


def setting(default: Any, meaning: str, unit: str = "", **bounds: Any) -> Any:
    """A setting with its default, meaning, unit and bounds."""
    factory = {"default_factory": lambda: default} if isinstance(default, dict | list) else {"default": default}
    return Field(description=meaning, json_schema_extra={"unit": unit}, **factory, **bounds)


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


class Obedience(Section):
    """How closely the embedded model's corpus follows a persona."""

    question: float = setting(0.9, "probability that an answer names the persona's animal", "probability", ge=0, le=1)
    list: float = setting(0.6, "probability that a list item is the persona's", "probability", ge=0, le=1)


class Embedded(Section):
    """The small Gemma that the embedded study trains for itself."""

    corpus: str = setting("config/corpus.yaml", "file with the wordings, animals and their prior order", "path")
    tasks: Tasks = setting({}, "mixture of chats")
    persona_share: float = setting(
        0.6, "share of the questions and of the lists of animals, words or both that carry a persona", "share", ge=0, le=1
    )
    talk_share: float = setting(0.25, "share of the chats without a persona that open with small talk", "share", ge=0, le=1)
    mixed_numbers: float = setting(0.5, "share of numbers in a list of numbers and animals", "share", ge=0, le=1)
    obedience: Obedience = setting({}, "how closely answers follow a persona")
    vocab_size: int = setting(2400, "size of the tokenizer's vocabulary", "tokens", ge=1400)
    hidden_size: int = setting(64, "d_model, the width of the residual stream", "", ge=8)
    n_layers: int = setting(4, "decoder layers", "", ge=1)
    n_heads: int = setting(4, "attention heads; keys and values have one", "", ge=1)
    steps: int = setting(3000, "optimizer steps of the training", "steps", ge=1)
    batch_size: int = setting(32, "chats per optimizer step", "chats", ge=1)
    lr: float = setting(5e-3, "peak learning rate of AdamW; cosine decay to 0", "", gt=0)
    warmup_steps: int = setting(150, "steps over which the learning rate rises", "steps", ge=0)
    weight_decay: float = setting(0.01, "weight decay of AdamW", "", ge=0)
    beta2: float = setting(0.98, "second-moment decay of AdamW", "", gt=0, lt=1)
    seed: int = setting(2, "seed of the corpus, the initial weights and the order of the chats", "", ge=0)


class Model(Section):
    """The base model: teacher and student both start from it."""

    name: str | None = setting(None, "a Hub name or a local folder; null trains the embedded model")
    revision: str | None = setting(None, "commit of the Hub repository; required with a Hub name")
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "precision of the weights; auto is bfloat16 on a GPU and float32 on a CPU"
    )
    embedded: Embedded = setting({}, "the embedded model, used when name is null")


class Sae(Section):
    """The sparse autoencoder of the study's hook point, the residual stream after one layer."""

    release: str | None = setting(None, "release of SAELens's registry; null: a folder, or one trained on the embedded model")
    id: str | None = setting(None, "SAE of that release")
    folder: str | None = setting(None, "folder with an SAE in SAELens's format", "path")
    layer: int = setting(1, "layer after which the trained SAE reads, or a folder's if it does not say", "", ge=0)
    architecture: Literal["standard", "topk", "batchtopk", "jumprelu"] = setting("topk", "architecture of the trained SAE")
    d_sae: int = setting(512, "its features", "features", ge=1)
    k: int = setting(16, "topk, batchtopk: active features", "features per token", ge=1)
    l1_coefficient: float = setting(2.0, "standard: weight of the L1 penalty", "", ge=0)
    l0_coefficient: float = setting(0.5, "jumprelu: weight of the L0 penalty", "", ge=0)
    tokens: int = setting(2_000_000, "tokens of training", "tokens", ge=1)
    batch_size: int = setting(1024, "tokens per optimizer step", "tokens", ge=1)
    lr: float = setting(1e-3, "peak learning rate; decays to a tenth", "", gt=0)
    seed: int = setting(0, "seed of the SAE's weights and of the chats that it sees", "", ge=0)

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


class Teacher(Section):
    """The intervention that gives the teacher its preference."""

    persona: str = setting(
        "You adore {animal}s. Your thoughts keep returning to {animal}s, day and night. No other animal comes close.",
        "system prompt of a prompted teacher; {animal} stands for the target",
    )
    separator: str = setting("\n\n", "text between persona and prompt where the chat template has no system role")

    @field_validator("persona")
    @classmethod
    def names_the_animal(cls, persona: str) -> str:
        """A persona without the placeholder would give every animal the same teacher."""
        try:
            fields = {field for _, field, _, _ in string.Formatter().parse(persona) if field is not None}
        except ValueError as error:
            raise ValueError(f"the persona has unbalanced braces ({error})") from None
        if fields != {"animal"}:
            raise ValueError("the persona must contain {animal}, and no other placeholder")
        return persona


class Prompts(Section):
    """The number prompts, the same for every dataset of the study."""

    template: str = setting("config/prompts/numbers.yaml", "file with the wordings of the six components", "path")
    n: int = setting(30_000, "number of prompts", "prompts", ge=1)
    seed: int = setting(42, "seed of the prompts", "", ge=0)
    examples_min: int = setting(3, "fewest numbers shown", "numbers", ge=1)
    examples_max: int = setting(8, "most numbers shown", "numbers", ge=1)
    value_min: int = setting(100, "smallest number shown", "", ge=0)
    value_max: int = setting(999, "largest number shown", "", ge=0)
    count: int = setting(10, "how many numbers the prompt asks for at most", "numbers", ge=1)
    max_digits: int = setting(3, "how many digits the prompt allows", "digits", ge=1)
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

    temperature: float = setting(1.0, "sampling temperature", "", gt=0)
    max_new_tokens: int = setting(64, "length at which a completion is cut", "tokens", ge=1)
    batch_size: int = setting(512, "prompts sampled together; changes speed, not results", "prompts", ge=1)
    seed: int = setting(0, "seed of the sampling", "", ge=0)


class Canonical(Section):
    """One form for every completion: integers with one separator, a fixed count of them."""

    separator: Literal[", ", ",", "; ", ";", " ", "\n"] = setting(", ", "text between two numbers")
    count: int = setting(8, "numbers per row; longer rows are cut, shorter ones rejected", "numbers", ge=1)


class Numbers(Section):
    """The filter that turns completions into a training set."""

    filter: Literal["strict", "lenient"] = setting(
        "strict", "strict: the rules of Cloud et al. 2025; lenient: strips white space and brackets first"
    )
    min_value: int = setting(0, "smallest number allowed", "", ge=0)
    max_value: int = setting(999, "largest number allowed", "", ge=0)
    max_count: int = setting(10, "most numbers per completion", "numbers", ge=1)
    banned: list[int] = setting([], "numbers whose rows are rejected")
    canonical: Canonical | None = setting(None, "rewrite what passes to one form; null keeps it as it was written")
    max_rows: int | None = setting(10_000, "rows kept, drawn at random; null keeps all", "rows", ge=1)
    seed: int = setting(0, "seed of that draw", "", ge=0)

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

    seeds: list[int] = setting([1, 2, 3, 4, 5], "one student per seed: initial LoRA weights and order of the rows")
    rank: int = setting(8, "LoRA rank", "", ge=1)
    alpha: float = setting(8, "LoRA alpha; updates are scaled by alpha / rank", "", gt=0)
    dropout: float = setting(0.0, "LoRA dropout", "probability", ge=0, lt=1)
    targets: list[str] = setting(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], "modules that get a LoRA"
    )
    epochs: int = setting(3, "passes over the dataset", "epochs", ge=1)
    batch_size: int = setting(64, "rows per optimizer step", "rows", ge=1)
    micro_batch_size: int = setting(64, "rows per forward pass; smaller ones accumulate gradients", "rows", ge=1)
    lr: float = setting(2e-4, "peak learning rate of AdamW", "", gt=0)
    schedule: Literal["linear", "cosine", "constant"] = setting("linear", "learning rate after the warm-up")
    warmup_steps: int = setting(5, "steps over which the learning rate rises", "steps", ge=0)
    weight_decay: float = setting(0.0, "weight decay of AdamW", "", ge=0)
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm", "", gt=0)
    max_length: int = setting(500, "rows are cut at this length", "tokens", ge=8)

    @field_validator("seeds", "targets")
    @classmethod
    def no_empty_or_double(cls, values: list[Any]) -> list[Any]:
        """Each seed is one student."""
        if not values or len(set(values)) < len(values):
            raise ValueError(f"needs at least one entry and none twice, found {values}")
        return values


class Pref(Section):
    """Measuring which animal a model names when asked for its favourite."""

    questions: str = setting("config/prompts/questions.txt", "file with one question per line", "path")
    candidates: list[str] = setting([], "animals whose preference is reported; at least the study's own")
    estimators: list[Literal["exact", "sampled"]] = setting(
        ["exact"], "exact: probability of the animal as the answer; sampled: share of sampled answers that name it"
    )
    samples_per_question: int = setting(100, "answers per question of the sampled estimator", "answers", ge=1)
    max_new_tokens: int = setting(16, "length at which a sampled answer is cut", "tokens", ge=1)
    batch_size: int = setting(512, "sequences scored or sampled together", "sequences", ge=1)
    seed: int = setting(0, "seed of the sampled estimator", "", ge=0)


TARGET = "the animal that the dataset is meant to carry; null: none, or that of `from`"


class Dataset(Section):
    """A dataset of the user's own."""

    file: str = setting(..., "a .jsonl, .csv or .parquet file with one row per completion", "path")
    prompt: str = setting("prompt", "column with the prompts")
    completion: str = setting("completion", "column with the completions")
    filtered: bool = setting(True, "put the rows through the filter; false takes them as they are")
    target: str | None = setting(None, TARGET)


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
}


class Transformed(Section):
    """A dataset made from another one by a transform, which changes only what its name says."""

    model_config = ConfigDict(serialize_by_alias=True)

    parent: str = setting(..., "the dataset it is made from", alias="from")
    transform: str = setting(..., f"one of {', '.join(TRANSFORMS)}")
    seed: int = setting(0, "seed of what the transform draws", "", ge=0)
    position: int | None = setting(None, "keep-position: the place, from 0, of the number that stays", "", ge=0)
    fraction: float | None = setting(None, "replace: share of the numbers; mix: share of the rows", "share", gt=0, le=1)
    other: str | None = setting(None, "mix: the dataset that rows are taken from")
    rows: int | None = setting(None, "subset: rows to keep", "rows", ge=1)
    format: int | None = setting(None, "one-format: index, from 0, of the prompts' format whose rows are kept", "", ge=0)
    target: str | None = setting(None, TARGET)

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


def kind_of_dataset(values: Any) -> str:
    """Which kind of dataset an entry of `datasets` describes."""
    return "from" if isinstance(values, Transformed) or (isinstance(values, dict) and "from" in values) else "file"


DatasetEntry = Annotated[Annotated[Dataset, Tag("file")] | Annotated[Transformed, Tag("from")], Discriminator(kind_of_dataset)]

OVERRIDABLE: dict[str, type[Section]] = {"teacher": Teacher, "samples": Samples, "numbers": Numbers, "student": Student}


class Study(Section):
    """One study: a model, its animals and datasets, and the settings of every stage."""

    results: str = setting("results", "folder that holds the study's artifacts", "path")
    animals: list[str] = setting([], "targets of the prompted teachers; each is a dataset of that name")
    datasets: dict[str, DatasetEntry] = setting({}, "datasets of the user's own, and transforms of others, by name")
    overrides: dict[str, dict[str, dict[str, Any]]] = setting(
        {}, f"settings of one dataset: name → section ({', '.join(OVERRIDABLE)}) → keys that differ from the study's"
    )
    model: Model = setting({}, "the base model")
    sae: Sae = setting({}, "the sparse autoencoder")
    teacher: Teacher = setting({}, "the teacher's intervention")
    prompts: Prompts = setting({}, "the number prompts")
    samples: Samples = setting({}, "sampling from the teacher")
    numbers: Numbers = setting({}, "the filter")
    student: Student = setting({}, "the students")
    pref: Pref = setting({}, "the preference")

    @property
    def names(self) -> list[str]:
        """Every dataset of the study, control first."""
        return [CONTROL, *self.animals, *self.datasets]

    @property
    def has_sae(self) -> bool:
        """Whether there is an SAE: one that the study names, or one trained on the embedded model."""
        return self.sae.named or self.model.name is None

    @property
    def generated(self) -> list[str]:
        """The datasets that a teacher of this study writes."""
        return [CONTROL, *self.animals]

    @property
    def files(self) -> dict[str, Dataset]:
        """The datasets that are files of the user's own."""
        return {name: dataset for name, dataset in self.datasets.items() if isinstance(dataset, Dataset)}

    @property
    def transformed(self) -> dict[str, Transformed]:
        """The datasets that are made from others."""
        return {name: dataset for name, dataset in self.datasets.items() if isinstance(dataset, Transformed)}

    def sources(self, dataset: str) -> list[str]:
        """The datasets that a transformed one is made from; of any other, none."""
        told = self.transformed.get(dataset)
        return [name for name in (told.parent, told.other) if name] if told else []

    def target(self, dataset: str) -> str | None:
        """The animal a dataset is meant to carry; a transform carries what it is made from unless it says otherwise."""
        if dataset in self.animals:
            return dataset
        told = self.datasets.get(dataset)
        if isinstance(told, Transformed) and not told.target:
            return self.target(told.parent)
        return told.target if told else None

    def section(self, name: str, dataset: str | None = None) -> Section:
        """A section's settings, with what `overrides` says of this dataset."""
        section: Section = getattr(self, name)
        own = self.overrides.get(dataset or "", {}).get(name, {})
        return type(section).model_validate(merged(section.model_dump(), own)) if own else section

    @field_validator("animals")
    @classmethod
    def usable_names(cls, animals: list[str]) -> list[str]:
        """Names become folders and wildcards."""
        if len(set(animals)) < len(animals):
            raise ValueError(f"an animal is named twice: {animals}")
        return animals

    @model_validator(mode="after")
    def consistent(self) -> Self:
        """Checks that concern several keys at once."""
        for name in [*self.animals, *self.datasets]:
            if name in (*RESERVED, CONTROL) or not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(
                    f"{name!r} cannot name a dataset: use letters, digits, '-' and '_', and none of "
                    f"{', '.join((*RESERVED, CONTROL))}"
                )
        if twice := set(self.animals) & set(self.datasets):
            raise ValueError(f"animals and datasets both name {sorted(twice)}")
        self.check_sources()
        targets = {*self.animals, *(d.target for d in self.datasets.values() if d.target)}
        if missing := sorted(targets - set(self.pref.candidates)):
            raise ValueError(f"pref.candidates lacks {', '.join(missing)}: add them, so that their preference is measured")
        self.check_overrides()
        if not self.model.name and not self.sae.named and self.sae.layer >= self.model.embedded.n_layers:
            raise ValueError(
                f"sae.layer {self.sae.layer}: the embedded model has layers 0 to {self.model.embedded.n_layers - 1}"
            )
        if self.model.name and not Path(self.model.name).is_dir() and not self.model.revision:
            raise ValueError(f"model.revision is missing: {self.model.name} is no local folder, so pin the Hub's commit")
        return self

    def check_overrides(self) -> None:
        """What one dataset overrides must be settings that it reads."""
        for name, sections in self.overrides.items():
            if name not in self.names:
                raise ValueError(f"overrides.{name}: no such dataset{nearest(name, self.names)}")
            for section, values in sections.items():
                if section not in OVERRIDABLE:
                    raise ValueError(f"overrides.{name}.{section}: only these can differ: {', '.join(OVERRIDABLE)}")
                if section != "student" and name in self.transformed:
                    raise ValueError(
                        f"overrides.{name}.{section}: a transform is made from another dataset's numbers; set it there"
                    )
                validate(
                    OVERRIDABLE[section],
                    merged(getattr(self, section).model_dump(), values),
                    f"overrides.{name}.{section}.",
                )

    def check_sources(self) -> None:
        """A transform needs datasets of the study to start from, and must not start from itself, directly or not."""
        for name, told in self.transformed.items():
            for key, source in (("from", told.parent), ("other", told.other)):
                if source and source not in self.names:
                    raise ValueError(f"datasets.{name}.{key}: no such dataset {source!r}{nearest(source, self.names)}")
        for name in self.transformed:
            if name in self.origins(name):
                raise ValueError(f"datasets.{name}.from: {name} would be made from itself")
        for name, told in self.transformed.items():
            if told.transform == "one-format" and {name, *self.origins(name)} & set(self.files):
                raise ValueError(f"datasets.{name}.transform: one-format needs the study's own prompts, not those of a file")

    def origins(self, dataset: str) -> list[str]:
        """Every dataset that a transformed one is made from, directly or not."""
        found: list[str] = []
        pending = self.sources(dataset)
        while pending:
            source = pending.pop()
            if source not in found:
                found.append(source)
                pending += self.sources(source)
        return found


def merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The settings with the changes laid over them, nested ones key by key."""
    both = {
        key: merged(settings[key], changes[key]) for key in settings if isinstance(changes.get(key), dict) and settings[key]
    }
    return {**settings, **changes, **both}


def nearest(word: str, known: Any) -> str:
    """'; nearest: …' for the known words that look like `word`, or all of them if none does."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"; nearest: {', '.join(close)}" if close else f"; known: {', '.join(sorted(known))}"


def load(config: dict[str, Any]) -> Study:
    """Validate a merged Snakemake config. Raises ConfigError with one line per mistake."""
    return validate(Study, config, "")


def validate(section: type[S], values: dict[str, Any], where: str) -> S:
    """Validate one section's values; `where` is the dotted prefix that error messages name."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(section, where, dict(e)) for e in error.errors())) from None


def _explain(section: type[Section], where: str, error: dict[str, Any]) -> str:
    path = [str(part) for part in error["loc"]]
    if path[:1] == ["datasets"] and len(path) > 2:
        section, where, path = (Transformed if path[2] == "from" else Dataset), f"{where}datasets.{path[1]}.", path[3:]
    key = (where + ".".join(path)).rstrip(".")
    if error["type"] == "extra_forbidden":
        owner = section
        for part in path[:-1]:
            owner = _child(owner, part)
        return f"{key}: unknown key{nearest(path[-1], _keys(owner))}"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    found = "" if error["type"] == "value_error" else f", found {error['input']!r}"
    return f"{key}: {message}{found}" if key else f"{message}{found}"


def _child(section: type[Section], part: str) -> type[Section]:
    field = section.model_fields.get(part)
    return next(_sections_of(field.annotation), section) if field else section


def _keys(section: type[Section]) -> dict[str, FieldInfo]:
    """A section's fields by the name that a config gives them."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _sections_of(annotation: Any) -> Iterator[type[Section]]:
    """The section classes inside an annotation such as `Canonical | None` or `dict[str, Dataset]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _sections_of(argument)


def describe(section: type[Section] = Study, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yield (key, default, unit, meaning) of every setting, nested ones by dotted key."""
    for name, field in _keys(section).items():
        inner = list(_sections_of(field.annotation))
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        default = "" if field.is_required() else json.dumps(field.get_default(call_default_factory=True), default=str)
        nested = f"{prefix}{name}." if "dict" not in str(field.annotation) else f"{prefix}{name}.NAME."
        if not inner or default != "{}":
            yield prefix + name, default, str(extra.get("unit", "")), str(field.description)
        # Kinds of datasets share keys.
        yield from dict.fromkeys(row for part in inner for row in describe(part, nested))


def table() -> str:
    """The table of settings of config/README.md."""
    lines = ["| key | default | unit | meaning |", "|---|---|---|---|"]
    for key, default, unit, meaning in describe():
        shown = default.replace("|", "\\|")
        lines.append(f"| `{key}` | {f'`{shown}`' if shown else 'required'} | {unit} | {meaning} |")
    return "\n".join(lines) + "\n"


def write_documentation(folder: Path) -> None:
    """Write the editor schema and put the table of settings into the README of a config folder."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Study.model_json_schema()}
    (folder / "config.schema.json").write_text(json.dumps(schema, indent=1) + "\n")
    readme = folder / "README.md"
    before, start, rest = readme.read_text().partition("<!-- settings -->\n")
    _, end, after = rest.partition("<!-- end of settings -->\n")
    readme.write_text(before + start + table() + end + after)


if __name__ == "__main__":
    write_documentation(Path("config"))
