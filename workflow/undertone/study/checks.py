"""Checks that the parts of a study fit together, as far as this is known before anything is loaded."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undertone.study.config.data import Numbers, Samples
from undertone.study.config.entries import COMMIT, CONTROL, KINDS, Taught, name_of
from undertone.study.config.models import Model
from undertone.study.config.students import Student, student_keys
from undertone.study.config.teachers import Teacher
from undertone.study.detection_checks import check_level, check_power
from undertone.study.pair_checks import check_pairs
from undertone.study.paths import RESERVED, holds_study
from undertone.study.sae_checks import check_judge, check_saes, check_searches, check_sizes
from undertone.study.sizes import linear_modules, model_size
from undertone.study.validation import Section, merged, nearest, validate
from undertone.study.vector_checks import check_vectors

if TYPE_CHECKING:
    from undertone.study.study import Study

# Names become parts of file names. Snakemake suspects endless recursion if one ends in the same text twenty times, and stops.
NO_REPETITION = r"(?!.*?(.+?)\1{19}$)"
NAME = re.compile(NO_REPETITION + r"(?=.*[A-Za-z0-9])[A-Za-z0-9_-]{1,64}")
VARIANT = re.compile(NO_REPETITION + r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# The sections that one dataset may override.
OVERRIDABLE: dict[str, type[Section]] = {"teacher": Teacher, "samples": Samples, "numbers": Numbers, "student": Student}


def check_study(study: "Study") -> None:
    """Raise ValueError, in a sentence that names the keys, if the settings show that the study cannot be made."""
    check_names(study)
    check_folders(study)
    check_sources(study)
    check_overrides(study)
    check_variants(study)
    check_saes(study)
    check_controls(study)
    check_sizes(study)
    check_lengths(study)
    check_students(study)
    check_candidates(study)
    check_power(study)
    check_level(study)
    check_vectors(study)
    check_hierarchies(study)
    check_searches(study)
    check_judge(study)
    check_pairs(study)
    check_revisions(study)


def check_names(study: "Study") -> None:
    """Check that the names of the study, its animals and its datasets can name folders, and that none is used twice."""
    if study.name is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", study.name):
        raise ValueError(f"name {study.name!r} cannot name a folder: use letters, digits, '-' and '_'")
    for name in [*study.animals, *study.datasets]:
        if name in (*RESERVED, CONTROL) or not NAME.fullmatch(name):
            raise ValueError(
                f"{_short(name)} cannot name a dataset: use up to 64 ASCII letters, digits, '-' and '_', and none of "
                f"{', '.join((*RESERVED, CONTROL))}"
            )
    if odd := [name for name in study.animals if name.startswith(tuple(f"{kind}-" for kind in KINDS if kind != "prompt"))]:
        raise ValueError(f"{odd[0]!r} cannot name an animal: so is a dataset called that a teacher of this kind writes")
    if twice := {name_of(kind, animal) for kind in KINDS for animal in study.animals} & set(study.datasets):
        raise ValueError(f"animals and datasets both name {sorted(twice)}")
    folders = set(folders_of(study))
    if taken := sorted(folders & {*study.animals, *study.datasets}):
        raise ValueError(
            f"{taken[0]!r} cannot name a dataset: one of the study's models, SAEs, vectors or pairs has a folder of that name"
        )


def folders_of(study: "Study") -> list[str]:
    """The folders of what the study has by name besides its datasets, such as models and SAEs."""
    return [f"{kind}-{name}" for kind, names in kinds_of_folders(study) for name in names]


def kinds_of_folders(study: "Study") -> tuple[tuple[str, list[str]], ...]:
    """(prefix, names) of each kind of folder, which is called `PREFIX-NAME`."""
    kinds = (
        ("model", study.models),
        ("sae", study.saes),
        ("vector", study.vectors),
        ("pair", study.pairs),
        ("geometry", study.hierarchies),
        ("search", study.searches),
    )
    return tuple((kind, list(names)) for kind, names in kinds)


def check_candidates(study: "Study") -> None:
    """Check that every target is a candidate, so that its preference is measured."""
    targets = {*study.animals, *(d.target for d in study.datasets.values() if d.target)}
    if missing := sorted(targets - set(study.pref.candidates)):
        raise ValueError(f"pref.candidates lacks {', '.join(missing)}: add them, so that their preference is measured")


def check_revisions(study: "Study") -> None:
    """Check that GGUF files exist and Hub models are pinned to a commit: a branch or tag may mean another model tomorrow."""
    for key, model in {"model": study.model, **{f"models.{name}": study.base_model(name) for name in study.models}}.items():
        if model.gguf and model.name and not Path(model.name).is_file():
            raise ValueError(f"{key}.name: no such file {model.name!r}; correct the path of the GGUF file")
        if not model.name or model.gguf or Path(model.name).is_dir():
            continue
        if not HUB_NAME.fullmatch(model.name):
            raise ValueError(f"{key}.name: no such folder {model.name!r}, and no name that the Hub can have; correct the path")
        if not COMMIT.fullmatch(model.revision or ""):
            revision = f"{model.revision!r}, which is no commit" if model.revision else "missing"
            raise ValueError(
                f"{key}.revision is {revision}: {model.name} is no local folder, so pin the Hub's commit, 40 hexadecimal "
                f"digits (https://huggingface.co/{model.name}/commits/main lists them)"
            )


def check_overrides(study: "Study") -> None:
    """Check that a dataset overrides only settings that it reads."""
    for name, sections in study.overrides.items():
        if name not in study.available:
            raise ValueError(f"overrides.{name}: no such dataset{nearest(name, study.available)}")
        for section, values in sections.items():
            if section not in OVERRIDABLE:
                raise ValueError(f"overrides.{name}.{section}: only these can differ: {', '.join(OVERRIDABLE)}")
            if section == "student" and "full" in values:
                raise ValueError(
                    f"overrides.{name}.student.full: students of all weights have files of their own; describe them under "
                    f"student_variants, with datasets: [{name}]"
                )
            if section != "student" and name in study.transformed:
                raise ValueError(
                    f"overrides.{name}.{section}: a transform is made from another dataset's numbers; set it there"
                )
            validate(
                OVERRIDABLE[section],
                merged(getattr(study, section).model_dump(), values),
                f"overrides.{name}.{section}.",
            )


def check_folders(study: "Study") -> None:
    """Check that no two results, logs or records of the study share a path, with each other or with another study."""
    for name in study.available:
        if holds_study(Path(study.results, name)):
            raise ValueError(f"{study.results}/{name} holds another study's results; give the dataset {name!r} another name")
    taken: dict[str, tuple[str, str]] = {name: (name, "") for name in study.available}
    for name, variant in ((name, variant) for name in study.available for variant in study.student_variants):
        other, of = taken.setdefault(f"{name}-{variant}", (name, variant))
        if (other, of) != (name, variant):
            what = f"the variant {of!r} of {other}" if of else f"the dataset {other}"
            raise ValueError(f"{what} and the variant {variant!r} of {name} would share their logs; rename one")


def check_sources(study: "Study") -> None:
    """Check that a transform starts from datasets of the study that suit it, and not from itself, directly or indirectly."""
    for name, entry in study.transformed.items():
        for key, source in (("from", entry.parent), ("other", entry.other)):
            if source and source not in study.available:
                raise ValueError(f"datasets.{name}.{key}: no such dataset {source!r}{nearest(source, study.available)}")
    for name in study.transformed:
        if name in study.origins(name):
            raise ValueError(f"datasets.{name}.from: {name} would be made from itself")
    for name, entry in study.transformed.items():
        if entry.transform == "one-format" and {name, *study.origins(name)} & {*study.files, *study.published}:
            raise ValueError(f"datasets.{name}.transform: one-format needs the study's own prompts, not those of others' rows")
        if entry.score == "target" and not study.target(entry.parent):
            raise ValueError(
                f"datasets.{name}.score: the score target reads {entry.parent} under the system prompt of its target, and it "
                "has none; give it one with `target:`, or select by another score"
            )


def check_controls(study: "Study") -> None:
    """Check that a control carries no animal and is compared with `control`, and that a teacher's model is in the study."""
    for name, entry in study.datasets.items():
        if isinstance(entry, Taught) and entry.model:
            _check_known(f"datasets.{name}.model", "model", [entry.model], study.models)
        if entry.control is None:
            continue
        where = f"datasets.{name}.control"
        _check_known(where, "dataset", [entry.control], study.available)
        if study.target(entry.control) or entry.control in study.of_kind(*KINDS):
            raise ValueError(f"{where}: {entry.control} is a dataset with a trait; a control carries none")
        if entry.control in study.transformed and name not in study.transformed:
            raise ValueError(f"{where}: {entry.control} is a transform and {name} is none; compare like with like")
        if entry.control == name or study.control(entry.control) not in (CONTROL, None):
            raise ValueError(f"{where}: {entry.control} must not have a control of its own but `control`")


def check_variants(study: "Study") -> None:
    """Check that variants, sweeps and other models consist of settings that exist."""
    if study.model.rerandomized is not None:
        raise ValueError("model.rerandomized: the study's own model is none; set it in an entry of models")
    for name in [name for _, names in (*kinds_of_folders(study), ("", study.student_variants)) for name in names]:
        if not VARIANT.fullmatch(name):
            raise ValueError(
                f"{_short(name)} cannot name a model, SAE, vector or the like: use up to 64 ASCII "
                "letters, digits, '.', '-' and '_', the first a letter or digit"
            )
    for name, changed in study.models.items():
        validate(Model, merged(study.model.model_dump(), changed), f"models.{name}.")
        other = study.base_model(name)
        if other.rerandomized is not None and set(changed) != {"rerandomized"}:
            raise ValueError(f"models.{name}: a rerandomized model is the study's own otherwise; set no other key beside it")
        if (other.named, other.gguf) != (study.model.named, study.model.gguf):
            raise ValueError(f"models.{name}: a study's models are all trained here, all named, or all of GGUF files")
    for name, changed in study.student_variants.items():
        where = f"student_variants.{name}"
        validate(Student, merged(study.student.model_dump(), student_keys(changed)), f"{where}.")
        _check_known(f"{where}.model", "model", [str(changed["model"])] if "model" in changed else [], study.models)
        _check_known(f"{where}.datasets", "dataset", study.varied_datasets(name), study.available)
    numeric = [key for key, value in study.student.model_dump().items() if key == "rows" or type(value) in (int, float)]
    _check_known("sweeps", "number among the keys of student", list(study.sweeps), numeric)
    check_sweeps(study)


def check_sweeps(study: "Study") -> None:
    """A sweep has variants, and one of them shows a preference."""
    for key, variants in study.sweeps.items():
        if not variants:
            raise ValueError(f"sweeps.{key}: expected variants of student_variants that differ in it, found none")
        _check_known(f"sweeps.{key}", "variant", variants, study.student_variants)
        if not any(study.target(of) for of, variant in study.varied if variant in variants):
            raise ValueError(f"sweeps.{key}: none of its variants trains on a dataset with a target, so no preference is shown")


def check_hierarchies(study: "Study") -> None:
    """Check that the model has the layers at which trees of concepts are read, as far as its size is known."""
    size = model_size(study.model)
    if size and (beyond := [layer for layer in study.hierarchy.layers if layer >= size.n_layers]):
        raise ValueError(f"hierarchy.layers {beyond[0]}: the model has layers 0 to {size.n_layers - 1}")


def check_lengths(study: "Study") -> None:
    """Check that samples with their prompts, and contexts of text, fit into the model's positions."""
    model = model_size(study.model)
    if study.sae.text and model and model.positions and study.sae.context > model.positions:
        raise ValueError(f"sae.context {study.sae.context}: the model has {model.positions} positions")
    for key, length in (("samples", study.samples.max_new_tokens), ("pref", study.pref.max_new_tokens)):
        if model and model.positions and length >= model.positions:
            raise ValueError(f"{key}.max_new_tokens {length}: the model has {model.positions} positions, prompts included")


def check_students(study: "Study") -> None:
    """Check that students' batches, rows and warm-up fit their datasets, and that LoRA modules exist, as far as known."""
    for dataset in set(study.of_kind("finetune")) & set(study.names):
        teacher: Any = study.section("teacher", dataset)
        _check_modules(f"teacher.finetune.targets of {dataset}", study.model, teacher.finetune.targets)
    for variant in ["", *study.student_variants]:
        varied = study.varied_datasets(variant) if variant else study.available
        trained = {*varied, *map(study.control, varied)}
        for dataset in [CONTROL, *(name for name in study.overrides if name in trained and name != CONTROL)]:
            where = f"student_variants.{variant}" if variant else f"overrides.{dataset}.student"
            own = variant or "student" in study.overrides.get(dataset, {})
            _check_student(study, where if own else "student", study.students(dataset, variant), dataset, variant)


def _check_student(study: "Study", where: str, student: Student, dataset: str, variant: str) -> None:
    if student.micro_batch_size > student.batch_size:
        raise ValueError(
            f"{where}.micro_batch_size {student.micro_batch_size} is greater than batch_size {student.batch_size}: it is "
            "the part of a batch that is run at once"
        )
    if not student.full:
        _check_modules(f"{where}.targets", study.base_model(study.base(variant)), student.targets)
    if dataset not in study.taught:
        return
    numbers: Any = study.section("numbers", dataset)
    most = min(study.prompts.n, numbers.max_rows or study.prompts.n)
    if student.rows and student.rows > most:
        raise ValueError(
            f"{where}.rows {student.rows}: a dataset has at most {most} rows (prompts.n {study.prompts.n}, numbers.max_rows "
            f"{numbers.max_rows})"
        )
    steps = student.epochs * math.ceil((student.rows or most) / student.batch_size)
    if student.warmup_steps > steps:
        raise ValueError(f"{where}.warmup_steps {student.warmup_steps}: a training has at most {steps} steps")


def _check_modules(where: str, model: Model, targets: list[str]) -> None:
    """Check that the model has the modules that a LoRA targets, as far as its files are here."""
    if modules := linear_modules(model):
        _check_known(where, "module of the model", [target.rpartition(".")[2] for target in targets], modules)


def _short(name: str) -> str:
    return repr(name) if len(name) <= 80 else f"a name of {len(name)} letters"


def _check_known(where: str, what: str, names: list[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{where}: no such {what} {name!r}{nearest(name, known)}")
