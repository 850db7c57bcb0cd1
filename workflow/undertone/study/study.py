"""A study: its model, animals, datasets and the settings of every stage, and whether they fit together."""

import math
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import field_validator, model_validator

from undertone.study.config import (
    ACROSS_ROWS,
    CONTROL,
    ENTRIES,
    KINDS,
    Activations,
    Dataset,
    DatasetEntry,
    Diagnosis,
    Differences,
    Entangled,
    FeatureBias,
    Indirect,
    Kind,
    Lens,
    Losses,
    Model,
    ModelMetrics,
    Numbers,
    Pref,
    Prompts,
    ResidualBias,
    Sae,
    SaeMetrics,
    Samples,
    Score,
    Sequences,
    Student,
    Taught,
    Teacher,
    Tokens,
    Transformed,
    name_of,
    none_twice,
)
from undertone.study.paths import BENCHMARKS, LOGS, SCRATCH, holds_study, usable_root
from undertone.study.sizes import linear_modules, model_size, sae_size
from undertone.study.validation import Section, merged, nearest, setting, validate

# Folders directly under the results root that are no datasets.
RESERVED = ("model", "sae", "plots", "tables", LOGS, BENCHMARKS, SCRATCH)
COMMIT = re.compile("[0-9a-f]{40}")
# Names become parts of file names; one that ends in twenty times the same stops Snakemake, which fears an endless recursion.
ENDLESS = r"(?!.*?(.+?)\1{19}$)"
NAME = re.compile(ENDLESS + r"(?=.*[A-Za-z0-9])[A-Za-z0-9_-]{1,64}")
VARIANT = re.compile(ENDLESS + r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# What may differ for one dataset.
OVERRIDABLE: dict[str, type[Section]] = {"teacher": Teacher, "samples": Samples, "numbers": Numbers, "student": Student}


class Study(Section):
    """One study: a model, its animals and datasets, and the settings of every stage."""

    results: str = setting(
        "results",
        "folder of the study's own that holds its artifacts; outside `results/` it holds its logs, benchmarks and scratch, too",
        "path",
    )
    name: str | None = setting(
        None,
        "its own folder under `tables` and `plots`; a study that shares its results root with one of other datasets needs one, "
        "as what is made of all datasets would overwrite the other's",
    )
    animals: list[str] = setting([], "targets of the teachers")
    teachers: list[Kind] = setting(
        ["prompt"], "kinds of teacher that each animal gets; they write `lion`, `steer-lion` and `finetune-lion`"
    )
    datasets: dict[str, DatasetEntry] = setting({}, "other datasets: files, transforms and single teachers, by name")
    overrides: dict[str, dict[str, dict[str, Any]]] = setting(
        {}, f"settings of one dataset: name → section ({', '.join(OVERRIDABLE)}) → keys that differ from the study's"
    )
    student_variants: dict[str, dict[str, Any]] = setting(
        {},
        "students trained otherwise, `results/lion/pref-NAME.json`: name → keys of `student` that differ, `model` (one of "
        "`models`), `datasets` (those that the study asks for)",
    )
    sweeps: dict[str, list[str]] = setting({}, "`plots/sweep-KEY.png`: key of `student` → variants that differ in it")
    model: Model = setting({}, "the base model")
    models: dict[str, dict[str, Any]] = setting(
        {}, "other base models, for cross-model students: name → keys of `model` that differ"
    )
    model_metrics: ModelMetrics = setting({}, "the model's metrics")
    sae: Sae = setting({}, "the sparse autoencoder")
    sae_metrics: SaeMetrics = setting({}, "the SAE's metrics")
    teacher: Teacher = setting({}, "the teacher's intervention")
    prompts: Prompts = setting({}, "the number prompts")
    samples: Samples = setting({}, "sampling from the teacher")
    numbers: Numbers = setting({}, "the filter")
    student: Student = setting({}, "the students")
    pref: Pref = setting({}, "the preference")
    indirect: Indirect = setting({}, "the indirect evaluation")
    diagnosis: Diagnosis = setting({}, "the failure report")
    activations: Activations = setting({}, "activations of a dataset's rows")
    differences: Differences = setting({}, "differences of activations")
    score: Score = setting({}, "the score")
    feature_bias: FeatureBias = setting({}, "biases on the SAE's features")
    residual_bias: ResidualBias = setting({}, "biases on the residual stream")
    losses: Losses = setting({}, "the loss table")
    tokens: Tokens = setting({}, "tokens and logits")
    sequences: Sequences = setting({}, "single sequences")
    lens: Lens = setting({}, "the activation difference lens")
    entangled: Entangled = setting({}, "entangled tokens")

    @property
    def names(self) -> list[str]:
        """Every dataset that the study asks for, control first."""
        return [CONTROL, *(name_of(kind, animal) for kind in self.teachers for animal in self.animals), *self.datasets]

    @property
    def available(self) -> list[str]:
        """Every dataset that can be asked for: those, and what the kinds of teacher that are not listed would write."""
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
        """By animal, the dataset whose steered teacher says which of the SAE's features stands for it."""
        steered = {animal: name_of("steer", animal) for animal in self.animals} if self.has_sae else {}
        teachers: dict[str, Any] = {animal: self.section("teacher", dataset) for animal, dataset in steered.items()}
        return {animal: dataset for animal, dataset in steered.items() if teachers[animal].steer.vector == "feature"}

    def features_for(self, dataset: str | None) -> dict[str, str]:
        """Of `animal_features`, the target's, or with no dataset all of them."""
        named = self.target(dataset) if dataset else None
        return {animal: of for animal, of in self.animal_features.items() if dataset is None or animal == named}

    def counterpart(self, dataset: str | None) -> str | None:
        """The dataset of the steered teacher of the same animal, of a prompted dataset."""
        return self.animal_features.get(str(dataset)) if dataset in self.of_kind("prompt") else None

    @property
    def diagnosed(self) -> list[str]:
        """The datasets that the study asks for and whose teacher has a trait."""
        return [name for name in self.names if name in self.of_kind(*KINDS)]

    @property
    def can_steer(self) -> bool:
        """Whether there is what a steered teacher needs."""
        return self.has_sae or self.teacher.steer.vector == "contrast"

    @property
    def has_sae(self) -> bool:
        """Whether there is an SAE: one that the study names, or one trained on the embedded model."""
        return self.sae.named or self.model.name is None

    def of_kind(self, *kinds: str) -> list[str]:
        """The datasets of these kinds of teacher, where it starts from the study's own model."""
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
    def transformed(self) -> dict[str, Transformed]:
        """The datasets that are made from others."""
        return {name: dataset for name, dataset in self.datasets.items() if isinstance(dataset, Transformed)}

    def sources(self, dataset: str) -> list[str]:
        """The datasets that a transformed one is made from; of any other, none."""
        entry = self.transformed.get(dataset)
        return [name for name in (entry.parent, entry.other) if name] if entry else []

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
        """A section's settings, with what `overrides` says of this dataset."""
        section: Section = getattr(self, name)
        own = self.overrides.get(dataset or "", {}).get(name, {})
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

    @property
    def varied(self) -> list[tuple[str, str]]:
        """(dataset, variant) of the students trained otherwise that the study asks for."""
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
        """A study has a folder of its own."""
        return usable_root(results, (*RESERVED, CONTROL))

    @field_validator("animals", "teachers")
    @classmethod
    def usable_names(cls, animals: list[str]) -> list[str]:
        """Names become folders and wildcards."""
        if len(set(animals)) < len(animals):
            raise ValueError(f"named twice: {animals}")
        return animals

    @model_validator(mode="after")
    def consistent(self) -> Self:
        """Checks that concern several keys at once."""
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise ValueError(f"name {self.name!r} cannot name a folder: use letters, digits, '-' and '_'")
        for name in [*self.animals, *self.datasets]:
            if name in (*RESERVED, CONTROL) or not NAME.fullmatch(name):
                raise ValueError(
                    f"{_short(name)} cannot name a dataset: use up to 64 ASCII letters, digits, '-' and '_', and none of "
                    f"{', '.join((*RESERVED, CONTROL))}"
                )
        if kinds := [name for name in self.animals if name.startswith(tuple(f"{kind}-" for kind in KINDS if kind != "prompt"))]:
            raise ValueError(f"{kinds[0]!r} cannot name an animal: so is a dataset called that a teacher of this kind writes")
        if twice := {name_of(kind, animal) for kind in KINDS for animal in self.animals} & set(self.datasets):
            raise ValueError(f"animals and datasets both name {sorted(twice)}")
        self.check_folders()
        self.check_sources()
        self.check_overrides()
        self.check_variants()
        self.check_controls()
        self.check_sizes()
        self.check_lengths()
        self.check_students()
        targets = {*self.animals, *(d.target for d in self.datasets.values() if d.target)}
        if missing := sorted(targets - set(self.pref.candidates)):
            raise ValueError(f"pref.candidates lacks {', '.join(missing)}: add them, so that their preference is measured")
        self.check_revisions()
        return self

    def check_revisions(self) -> None:
        """A model of the Hub is pinned to a commit; a branch or a tag may mean another model tomorrow."""
        for key, model in {"model": self.model, **{f"models.{name}": self.base_model(name) for name in self.models}}.items():
            if not model.name or Path(model.name).is_dir():
                continue
            if not HUB_NAME.fullmatch(model.name):
                raise ValueError(
                    f"{key}.name: no such folder {model.name!r}, and no name that the Hub can have; correct the path"
                )
            if not COMMIT.fullmatch(model.revision or ""):
                revision = f"{model.revision!r}, which is no commit" if model.revision else "missing"
                raise ValueError(
                    f"{key}.revision is {revision}: {model.name} is no local folder, so pin the Hub's commit, 40 hexadecimal "
                    f"digits (https://huggingface.co/{model.name}/commits/main lists them)"
                )

    def check_overrides(self) -> None:
        """What one dataset overrides must be settings that it reads."""
        for name, sections in self.overrides.items():
            if name not in self.available:
                raise ValueError(f"overrides.{name}: no such dataset{nearest(name, self.available)}")
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

    def check_folders(self) -> None:
        """No two results, logs or records of the study, and none of another study, have one path."""
        for name in self.available:
            if holds_study(Path(self.results, name)):
                raise ValueError(f"{self.results}/{name} holds another study's results; give the dataset {name!r} another name")
        for name in self.available:
            for variant in self.student_variants:
                if f"{name}-{variant}" in self.available:
                    raise ValueError(
                        f"the dataset {name}-{variant} and the variant {variant!r} of {name} would share their logs; rename one"
                    )

    def check_sources(self) -> None:
        """A transform needs datasets of the study to start from, and must not start from itself, directly or not."""
        for name, entry in self.transformed.items():
            for key, source in (("from", entry.parent), ("other", entry.other)):
                if source and source not in self.available:
                    raise ValueError(f"datasets.{name}.{key}: no such dataset {source!r}{nearest(source, self.available)}")
        for name in self.transformed:
            if name in self.origins(name):
                raise ValueError(f"datasets.{name}.from: {name} would be made from itself")
        for name, entry in self.transformed.items():
            if entry.transform == "one-format" and {name, *self.origins(name)} & set(self.files):
                raise ValueError(f"datasets.{name}.transform: one-format needs the study's own prompts, not those of a file")

    def check_controls(self) -> None:
        """A control carries no animal, and is itself compared with `control`; a teacher's model is one of the study's."""
        for name, entry in self.datasets.items():
            if isinstance(entry, Taught) and entry.model:
                _check_known(f"datasets.{name}.model", "model", [entry.model], self.models)
            if entry.control is None:
                continue
            where = f"datasets.{name}.control"
            _check_known(where, "dataset", [entry.control], self.available)
            if self.target(entry.control) or entry.control in self.of_kind(*KINDS):
                raise ValueError(f"{where}: {entry.control} is a dataset with a trait; a control carries none")
            if entry.control in self.transformed and name not in self.transformed:
                raise ValueError(f"{where}: {entry.control} is a transform and {name} is none; compare like with like")
            if entry.control == name or self.control(entry.control) not in (CONTROL, None):
                raise ValueError(f"{where}: {entry.control} must not have a control of its own but `control`")

    def check_variants(self) -> None:
        """Variants, sweeps and other models must be made of settings that exist."""
        for name in [*self.models, *self.student_variants]:
            if not VARIANT.fullmatch(name):
                raise ValueError(
                    f"{_short(name)} cannot name a model or variant: use up to 64 ASCII letters, digits, '.', '-' and '_', the "
                    "first a letter or digit"
                )
        for name, changed in self.models.items():
            validate(Model, merged(self.model.model_dump(), changed), f"models.{name}.")
            if (self.base_model(name).name is None) != (self.model.name is None):
                raise ValueError(f"models.{name}: either all models of a study have a name, or none has")
        for name, changed in self.student_variants.items():
            where = f"student_variants.{name}"
            validate(Student, merged(self.student.model_dump(), student_keys(changed)), f"{where}.")
            _check_known(f"{where}.model", "model", [str(changed["model"])] if "model" in changed else [], self.models)
            _check_known(f"{where}.datasets", "dataset", self.varied_datasets(name), self.available)
        numeric = [key for key, value in self.student.model_dump().items() if key == "rows" or type(value) in (int, float)]
        _check_known("sweeps", "number among the keys of student", list(self.sweeps), numeric)
        for key, variants in self.sweeps.items():
            _check_known(f"sweeps.{key}", "variant", variants, self.student_variants)

    def check_sizes(self) -> None:
        """Layers, features and widths must be there, as far as they are known before anything is loaded."""
        listed = [name for name in self.of_kind("steer") if name in self.datasets]
        if not self.can_steer and ("steer" in self.teachers or listed):
            raise ValueError(
                f"a steered teacher needs an SAE, and the study names none for {self.model.name}: set sae.release and "
                "sae.id, or sae.folder, or teacher.steer.vector: contrast"
            )
        model = model_size(self.model)
        sae = sae_size(self.sae) if self.has_sae else None
        if model and sae:
            if sae.d_in is not None and sae.d_in != model.d_model:
                raise ValueError(
                    f"the SAE reads vectors of {sae.d_in}, the model's residual stream has {model.d_model}: it is another "
                    "model's"
                )
            if sae.layer >= model.n_layers:
                raise ValueError(f"sae.layer {sae.layer}: the model has layers 0 to {model.n_layers - 1}")
        for dataset in self.of_kind("steer"):
            steer = self.section("teacher", dataset).steer  # type: ignore[attr-defined]
            if steer.vector == "contrast" and model and steer.contrast.layer >= model.n_layers:
                raise ValueError(
                    f"teacher.steer.contrast.layer {steer.contrast.layer} of {dataset}: the model has layers 0 to "
                    f"{model.n_layers - 1}"
                )
            if steer.vector == "feature" and sae and steer.feature is not None and steer.feature >= sae.d_sae:
                raise ValueError(
                    f"teacher.steer.feature {steer.feature} of {dataset}: the SAE has features 0 to {sae.d_sae - 1}"
                )

    def check_lengths(self) -> None:
        """What is sampled must fit into the model's positions, prompt and all."""
        model = model_size(self.model)
        for key, length in (("samples", self.samples.max_new_tokens), ("pref", self.pref.max_new_tokens)):
            if model and model.positions and length >= model.positions:
                raise ValueError(f"{key}.max_new_tokens {length}: the model has {model.positions} positions, prompts included")

    def check_students(self) -> None:
        """A student's batches, rows and warm-up must fit its dataset, as far as that is known."""
        for dataset in set(self.of_kind("finetune")) & set(self.names):
            teacher: Any = self.section("teacher", dataset)
            _check_modules(f"teacher.finetune.targets of {dataset}", self.model, teacher.finetune.targets)
        for variant in ["", *self.student_variants]:
            for dataset in [CONTROL, *(name for name in self.overrides if name != CONTROL)]:
                where = f"student_variants.{variant}" if variant else f"overrides.{dataset}.student"
                own = variant or "student" in self.overrides.get(dataset, {})
                self._check_student(where if own else "student", self.students(dataset, variant), dataset, variant)

    def _check_student(self, where: str, student: Student, dataset: str, variant: str) -> None:
        if student.micro_batch_size > student.batch_size:
            raise ValueError(
                f"{where}.micro_batch_size {student.micro_batch_size} is greater than batch_size {student.batch_size}: it is "
                "the part of a batch that is run at once"
            )
        if not student.full:
            _check_modules(f"{where}.targets", self.base_model(self.base(variant)), student.targets)
        if dataset not in self.taught:
            return
        numbers: Any = self.section("numbers", dataset)
        most = min(self.prompts.n, numbers.max_rows or self.prompts.n)
        if student.rows and student.rows > most:
            raise ValueError(
                f"{where}.rows {student.rows}: a dataset has at most {most} rows (prompts.n {self.prompts.n}, numbers.max_rows "
                f"{numbers.max_rows})"
            )
        steps = student.epochs * math.ceil((student.rows or most) / student.batch_size)
        if student.warmup_steps > steps:
            raise ValueError(f"{where}.warmup_steps {student.warmup_steps}: a training has at most {steps} steps")

    def origins(self, dataset: str) -> list[str]:
        """Every dataset that a transformed one is made from, directly or not."""
        origins: list[str] = []
        pending = self.sources(dataset)
        while pending:
            source = pending.pop()
            if source not in origins:
                origins.append(source)
                pending += self.sources(source)
        return origins


def _check_modules(where: str, model: Model, targets: list[str]) -> None:
    """A LoRA needs modules that the model has, as far as its files are here."""
    if modules := linear_modules(model):
        _check_known(where, "module of the model", [target.rpartition(".")[2] for target in targets], modules)


def _short(name: str) -> str:
    return repr(name) if len(name) <= 80 else f"a name of {len(name)} letters"


def _check_known(where: str, what: str, names: list[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{where}: no such {what} {name!r}{nearest(name, known)}")


def student_keys(variant: dict[str, Any]) -> dict[str, Any]:
    """What a variant says of the students themselves."""
    return {key: value for key, value in variant.items() if key not in ("model", "datasets")}


def load(config: dict[str, Any]) -> Study:
    """Validate a merged Snakemake config. Raises ConfigError with one line per mistake."""
    return validate(Study, config, "", ENTRIES)
