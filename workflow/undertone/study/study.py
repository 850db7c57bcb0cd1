"""A study: its model, animals, datasets and the settings of every stage, and whether they fit together."""

from functools import cached_property
from typing import Any, Self

from pydantic import field_validator, model_validator

from undertone.study.checks import check_study
from undertone.study.config import detect
from undertone.study.config.bounds import none_twice
from undertone.study.config.entries import (
    ACROSS_ROWS,
    CONTROL,
    ENTRIES,
    KINDS,
    Dataset,
    Published,
    Taught,
    Transformed,
    name_of,
)
from undertone.study.config.lab import GAUSSIAN
from undertone.study.config.models import Model
from undertone.study.config.saes import Sae, sae_keys
from undertone.study.config.students import Student, student_keys
from undertone.study.paths import RESERVED, usable_root
from undertone.study.settings import Settings
from undertone.study.sizes import sae_size
from undertone.study.validation import Section, merged, validate


class Study(Settings):
    """One study: a model, its animals and datasets, and the settings of every stage."""

    @property
    def names(self) -> list[str]:
        """Every dataset that the study asks for, control first."""
        return [CONTROL, *(name_of(kind, animal) for kind in self.teachers for animal in self.animals), *self.datasets]

    @property
    def available(self) -> list[str]:
        """Every dataset that can be requested: `names`, and what kinds of teacher that are not listed would write."""
        return list(dict.fromkeys([*self.names, *self.taught]))

    @cached_property
    def taught(self) -> dict[str, Taught]:
        """The datasets that a teacher of this study writes, and what it is taught."""
        kinds = [kind for kind in KINDS if kind != "steer" or self.can_steer]
        own = {name: dataset for name, dataset in self.datasets.items() if isinstance(dataset, Taught)}
        return {
            CONTROL: Taught(teacher="none"),
            **{name_of(kind, a): Taught(teacher=kind, target=a) for kind in kinds for a in self.animals},
            **own,
        }

    @property
    def animal_features(self) -> dict[str, str]:
        """Animal → the dataset whose steered teacher determines which of the SAE's features stands for the animal."""
        steered = {animal: name_of("steer", animal) for animal in self.animals} if self.has_sae else {}
        teachers: dict[str, Any] = {animal: self.section("teacher", dataset) for animal, dataset in steered.items()}
        return {animal: dataset for animal, dataset in steered.items() if teachers[animal].steer.vector == "feature"}

    def features_for(self, dataset: str | None) -> dict[str, str]:
        """The entry of `animal_features` for a dataset's target; all entries without a dataset."""
        named = self.target(dataset) if dataset else None
        return {animal: of for animal, of in self.animal_features.items() if dataset is None or animal == named}

    def counterpart(self, dataset: str | None) -> str | None:
        """For a prompted dataset, the dataset of the steered teacher of the same animal; else None."""
        return self.animal_features.get(self.target(dataset) or "") if dataset in self.of_kind("prompt") else None

    @property
    def diagnosed(self) -> list[str]:
        """The datasets that the study asks for and whose teacher has a trait."""
        return [name for name in self.names if name in self.of_kind(*KINDS)]

    @property
    def can_steer(self) -> bool:
        """Whether a steered teacher can be made: from an SAE's feature or from a contrast."""
        return self.has_sae or self.teacher.steer.vector == "contrast"

    @property
    def has_sae(self) -> bool:
        """Whether there is an SAE: one that the study names, or one trained on the embedded model or on text."""
        return self.sae.named or not self.model.named or bool(self.sae.text)

    def of_kind(self, *kinds: str) -> list[str]:
        """The datasets whose teacher is of one of these kinds and starts from the study's own model."""
        return [name for name, entry in self.taught.items() if entry.teacher in kinds and not entry.model]

    def kind(self, dataset: str | None, variant: str = "") -> str | None:
        """The kind of a dataset's teacher; None if there is none that starts from the same model as the variant's students."""
        entry = self.taught.get(str(dataset))
        return entry.teacher if entry and (entry.model or "") == self.base(variant) else None

    def control(self, dataset: str | None) -> str | None:
        """The dataset that a dataset is compared with; None for the control itself."""
        entry = self.datasets.get(str(dataset))
        return None if dataset == CONTROL else (entry.control if entry else None) or CONTROL

    @property
    def files(self) -> dict[str, Dataset]:
        """The datasets that are files of the user's own."""
        return {name: dataset for name, dataset in self.datasets.items() if isinstance(dataset, Dataset)}

    @property
    def published(self) -> dict[str, Published]:
        """The datasets of the Hub."""
        return {name: dataset for name, dataset in self.datasets.items() if isinstance(dataset, Published)}

    @property
    def transformed(self) -> dict[str, Transformed]:
        """The datasets that are made from others."""
        return {name: dataset for name, dataset in self.datasets.items() if isinstance(dataset, Transformed)}

    @property
    def selections(self) -> dict[str, dict[str, Transformed]]:
        """The datasets whose rows are selected by score, each with the datasets that are made from it and compared."""
        made: dict[str, dict[str, Transformed]] = {}
        for name, entry in self.transformed.items():
            if entry.transform in ("select", "subset", "without"):
                made.setdefault(entry.parent, {})[name] = entry
        return {parent: arms for parent, arms in made.items() if any(arm.transform == "select" for arm in arms.values())}

    @property
    def mixtures(self) -> list[str]:
        """The names that stand for the smaller subsets and the mixtures of each dataset in `power.datasets`."""
        return [f"{detect.MIXTURES}/{name}" for name in self.power.datasets]

    def sources(self, dataset: str) -> list[str]:
        """The datasets that a transformed dataset is made from; none for any other dataset."""
        entry = self.transformed.get(dataset)
        return [name for name in (entry.parent, entry.other) if name] if entry else []

    def origins(self, dataset: str) -> list[str]:
        """Every dataset that a transformed dataset is made from, directly or indirectly."""
        origins: list[str] = []
        pending = self.sources(dataset)
        while pending:
            source = pending.pop()
            if source not in origins:
                origins.append(source)
                pending += self.sources(source)
        return origins

    def written_as(self, dataset: str) -> str:
        """The dataset that was sampled or read: for a transform or a mixture, what it is made from (of two, the first)."""
        name = dataset.removeprefix(f"{detect.MIXTURES}/")
        return self.written_as(self.transformed[name].parent) if name in self.transformed else name

    def crosses_rows(self, dataset: str) -> bool:
        """Whether a transform, of the dataset or of one that it is made from, put numbers of other rows into its rows."""
        chain = {dataset, *self.origins(dataset)} & set(self.transformed)
        return any(self.transformed[name].transform in ACROSS_ROWS for name in chain)

    def target(self, dataset: str) -> str | None:
        """The animal a dataset is meant to carry; a transform carries what it is made from unless it says otherwise."""
        entry = self.taught.get(dataset) or self.datasets.get(dataset)
        if isinstance(entry, Transformed) and not entry.target:
            return self.target(entry.parent)
        return entry.target if entry else None

    def section(self, name: str, dataset: str | None = None) -> Section:
        """A section's settings, with the `overrides` of this dataset, or for all but students of the one its rows are from."""
        section: Section = getattr(self, name)
        of = str(dataset) if name == "student" else self.written_as(str(dataset))
        own = self.overrides.get(of, {}).get(name, {})
        return type(section).model_validate(merged(section.model_dump(), own)) if own else section

    def students(self, dataset: str | None, variant: str = "") -> Student:
        """The settings of a dataset's students of a variant; "" is the study's own."""
        student: Any = self.section("student", dataset)
        own = student_keys(self.student_variants[variant]) if variant else {}
        return Student.model_validate(merged(student.model_dump(), own)) if own else student

    def base(self, variant: str = "") -> str:
        """The name of the base model that a variant's students start from; "" is the study's own."""
        return str(self.student_variants[variant].get("model", "")) if variant else ""

    def base_model(self, name: str = "") -> Model:
        """The settings of a base model."""
        return Model.model_validate(merged(self.model.model_dump(), self.models[name])) if name else self.model

    def dictionary(self, name: str = "") -> Sae:
        """The settings of an SAE; "" is the study's own, which everything outside the laboratory reads."""
        return Sae.model_validate(merged(self.sae.model_dump(), sae_keys(self.saes[name]))) if name else self.sae

    def as_wide(self, sae: str = "") -> list[str]:
        """The other SAEs of the same model and hook point that are at least as wide as this one, as far as sizes are known."""
        own = sae_size(self.dictionary(sae))
        others = {name: sae_size(self.dictionary(name)) for name in ["", *self.saes] if name != sae}
        same = {name: size for name, size in others.items() if self.reads_alike(name, sae)}
        return [name for name, size in same.items() if own and size and size.layer == own.layer and size.d_sae >= own.d_sae]

    def reads_alike(self, a: str, b: str) -> bool:
        """Whether two SAEs read the same model at the same kind of point, in whatever layers."""
        return self.model_of(a) == self.model_of(b) and self.dictionary(a).point == self.dictionary(b).point

    def model_of(self, sae: str = "") -> str:
        """The name of the base model that an SAE reads; "" is the study's own."""
        return str(self.saes[sae].get("model", "")) if sae else ""

    def store_of(self, sae: str) -> str:
        """The store of activations that an SAE would be trained from: `POINT.LAYER`, or `POINT.LAYER-MODEL`."""
        own, model = self.dictionary(sae), self.model_of(sae)
        return f"{own.point}.{own.layer}{f'-{model}' if model else ''}"

    @property
    def stores(self) -> list[str]:
        """Every store that the study's SAEs could be trained from."""
        saes = ["", *self.saes] if self.has_sae and not self.sae.named else []
        return list(dict.fromkeys(map(self.store_of, saes)))

    @property
    def runs(self) -> list[str]:
        """`TOKENS-SEED` of every training of the scaling grid, then `TOKENS-SEED-gaussian` of its controls."""
        own = [f"{tokens}-{seed}" for tokens in self.scaling.tokens for seed in self.scaling.seeds]
        return own + [f"{tokens}-{seed}-{GAUSSIAN}" for tokens in self.scaling.tokens for seed in self.scaling.controls]

    @property
    def varied(self) -> list[tuple[str, str]]:
        """(dataset, variant) of the students of variants that the study asks for."""
        return [(of, name) for name in self.student_variants for of in self.varied_datasets(name)]

    def varied_datasets(self, variant: str) -> list[str]:
        """The datasets whose students of a variant the study asks for. Raises ValueError unless they are a list of names."""
        names = self.student_variants[variant].get("datasets", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"student_variants.{variant}.datasets: expected a list of datasets, found {names!r}")
        return list(none_twice(names))

    @field_validator("results")
    @classmethod
    def usable_results(cls, results: str) -> str:
        """Normalize the results root; refuse one that cannot be a study's own folder."""
        return usable_root(results, (*RESERVED, CONTROL))

    @field_validator("animals", "teachers")
    @classmethod
    def usable_names(cls, animals: list[str]) -> list[str]:
        """Refuse a name that is listed twice, because names become folders and wildcards."""
        if len(set(animals)) < len(animals):
            raise ValueError(f"named twice: {animals}")
        return animals

    @model_validator(mode="after")
    def consistent(self) -> Self:
        """Check keys that depend on each other."""
        check_study(self)
        return self


def load(config: dict[str, Any]) -> Study:
    """Validate a merged Snakemake config. Raises ConfigError with one line per mistake."""
    return validate(Study, config, "", ENTRIES)
