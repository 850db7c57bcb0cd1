"""Entries under `datasets`: files, transforms of other datasets, and datasets that a teacher writes."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Tag, field_validator, model_validator

from undertone.study.config.bounds import MAX_ROWS, MAX_SEED
from undertone.study.validation import Section, nearest, setting

CONTROL = "control"
TARGET = "the animal that the dataset is meant to carry; null: none, or that of `from`"
OWN_CONTROL = "the dataset that it is compared with, which must carry no animal; null: `control`"
# The kinds of file that a dataset can be; datasets.py reads them.
DATASET_FILES = (".jsonl", ".csv", ".parquet")
COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_DATASET = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def hub_dataset(name: str | None) -> str | None:
    """Return the name of a dataset of the Hub. Raises ValueError unless it is OWNER/NAME."""
    if name is not None and not HUB_DATASET.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a dataset of the Hub; expected OWNER/NAME")
    return name


def commit(revision: str | None) -> str | None:
    """Return a commit. Raises ValueError for a branch or a tag, which may mean other rows tomorrow."""
    if revision is not None and not COMMIT.fullmatch(revision):
        raise ValueError(f"{revision!r} is no commit: expected 40 hexadecimal digits, as the dataset's page lists them")
    return revision


class OwnRows(Section):
    """Rows that no teacher of the study wrote."""

    prompt: str = setting("prompt", "column with the prompts")
    completion: str = setting("completion", "column with the completions")
    filtered: bool = setting(True, "put the rows through the filter; false takes them as they are")
    target: str | None = setting(None, TARGET)
    control: str | None = setting(None, OWN_CONTROL)

    @model_validator(mode="after")
    def two_columns(self) -> Self:
        """Require two different columns."""
        if self.prompt == self.completion:
            raise ValueError(f"prompt and completion are both the column {self.prompt!r}; name the two columns")
        return self


class Dataset(OwnRows):
    """A dataset of the user's own."""

    file: str = setting(..., "a .jsonl, .csv or .parquet file with one row per completion", "path")

    @field_validator("file")
    @classmethod
    def of_a_known_kind(cls, file: str) -> str:
        """Require a known suffix, which determines how the file is read."""
        if not file.endswith(DATASET_FILES):
            raise ValueError(f"unknown kind of file {file!r}; expected one of {', '.join(DATASET_FILES)}")
        return file


class Published(OwnRows):
    """A dataset of the Hugging Face Hub."""

    hub: str = setting(..., "name of a dataset of the Hub, OWNER/NAME")
    revision: str = setting(..., "commit of its repository, 40 hexadecimal digits")
    subset: str | None = setting(None, "configuration of the dataset, if it has several")
    split: str = setting("train", "split, or a slice of one such as train[:2000]")

    _of_the_hub = field_validator("hub")(hub_dataset)
    _at_a_commit = field_validator("revision")(commit)


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
    "without": ("other",),
    "select": ("score", "keep", "fraction"),
}
# Scores of single rows, by which `select` chooses; row_scores.py writes them.
RowScore = Literal["difficulty", "personas", "gradient", "short_training", "target"]
# Transforms after which a row holds numbers of other rows, so that no half of the rows is independent of the rest.
ACROSS_ROWS = ("shuffle-across", "replace", "resample")


class Transformed(Section):
    """A dataset made from another one by a transform, which changes only what its name says."""

    model_config = ConfigDict(serialize_by_alias=True)

    parent: str = setting(..., "the dataset it is made from", alias="from")
    transform: str = setting(..., f"one of {', '.join(TRANSFORMS)}")
    seed: int = setting(0, "seed of what the transform draws", "", ge=0, le=MAX_SEED)
    position: int | None = setting(
        None, "keep-position: index, from 0, of the number that stays in its place", "", ge=0, le=1000
    )
    fraction: float | None = setting(
        None,
        "replace: share of the numbers that are replaced; mix: share of the rows that are another dataset's; select: share of "
        "the rows that are kept",
        "share",
        gt=0,
        le=1,
    )
    other: str | None = setting(
        None,
        "mix: the dataset that rows are taken from; match: the dataset whose prompts are kept; without: the dataset whose rows "
        "are left out",
    )
    score: RowScore | None = setting(None, "select: the score of `row_scores.parquet` by which rows are chosen")
    keep: Literal["top", "bottom"] | None = setting(None, "select: keep the rows of the highest (top) or lowest (bottom) score")
    rows: int | None = setting(None, "subset: rows to keep", "rows", ge=1, le=MAX_ROWS)
    format: int | None = setting(None, "one-format: index, from 0, of the format of prompts whose rows are kept", "", ge=0)
    target: str | None = setting(None, TARGET)
    control: str | None = setting(None, OWN_CONTROL)

    @field_validator("transform")
    @classmethod
    def known(cls, name: str) -> str:
        """Refuse an unknown transform."""
        if name not in TRANSFORMS:
            raise ValueError(f"no transform {name!r}{nearest(name, TRANSFORMS)}")
        return name

    @model_validator(mode="after")
    def fitting(self) -> Self:
        """Refuse settings that the transform does not read, and require those that it needs."""
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
    model: str | None = setting(None, "one of `models`, from which the teacher starts; null: the study's own model")
    target: str | None = setting(None, TARGET)
    control: str | None = setting(None, OWN_CONTROL)

    @model_validator(mode="after")
    def fitting(self) -> Self:
        """Check that the teacher fits its trait, target and model."""
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


# The kinds of entries under `datasets`, each by the key that only it has.
ENTRIES: dict[str, type[Section]] = {"file": Dataset, "hub": Published, "from": Transformed, "teacher": Taught}


def kind_of_dataset(values: Any) -> str:
    """Return the kind of dataset that an entry of `datasets` describes; `file` if its keys do not tell."""
    if isinstance(values, dict):
        return next((key for key in ENTRIES if key in values), "file")
    return next((key for key, section in ENTRIES.items() if isinstance(values, section)), "file")


DatasetEntry = Annotated[
    Annotated[Dataset, Tag("file")]
    | Annotated[Published, Tag("hub")]
    | Annotated[Transformed, Tag("from")]
    | Annotated[Taught, Tag("teacher")],
    Discriminator(kind_of_dataset),
]
