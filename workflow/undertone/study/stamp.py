"""The stamp: everything that a result depends on, as one plain dict that Snakemake compares.

A stamp holds the settings, the code and the contents of the user's files of a stage and of every stage before it, so that
a result is stale exactly when one of them changed, even after a failed or killed run (docs/staleness.md).
"""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from undertone.runtime.files import Stamp, replacing
from undertone.study.config import CONTROL
from undertone.study.paths import BENCHMARKS, folder_of
from undertone.study.sources import code_of
from undertone.study.stages import STAGES, TEACHING, Node, ancestors, compared, finished_jobs, read_by
from undertone.study.study import Study
from undertone.study.validation import Section

# Every job's process computes its stamp, so what a file of more bytes than this (a local model's weights) hashes to is noted.
LARGE = 2**26
HASHES = Path("scratch/hashes")


def stamp(study: Study, node: Node) -> Stamp:
    """The stamp of a stage's result: settings by `stage` or `dataset/stage`, code by file, file contents by path."""
    settings: dict[str, Any] = {}
    code: dict[str, str] = {}
    files: dict[str, str] = {}
    for each in ancestors(study, node):
        if own := settings_of(study, each):
            settings[each.key] = own
        code |= code_of(each.stage)
        files |= {path: content_version(path) for path in STAGES[each.stage].files(study, each)}
    return _sorted({"settings": settings, "code": code, "files": files})


def settings_of(study: Study, node: Node) -> dict[str, Any]:
    """What a stage is told: its sections and, where it matters, what the dataset is."""
    sections = {name: section_of(study, name, node).stamped() for name in STAGES[node.stage].sections}
    return _relevant(study, node, sections) | _dataset_settings(study, node) | _seeds(study, node)


def section_of(study: Study, name: str, node: Node) -> Section:
    """A section's settings for this dataset and variant."""
    if name == "model":
        return study.base_model(node.variant)
    return study.students(node.dataset, node.variant) if name == "student" else study.section(name, node.dataset)


def _relevant(study: Study, node: Node, sections: dict[str, Any]) -> dict[str, Any]:
    """The sections without what does not concern this study or dataset."""
    if "model" in sections:
        # The embedded model's settings do not concern a study that brings a model, nor a revision one that trains its own.
        del sections["model"]["embedded" if study.model.name else "revision"]
    if "sae" in sections:
        # A trained SAE has no name, and one that has a name was not trained here.
        naming = {"release", "id", "folder"}
        told = sections["sae"].items()
        sections["sae"] = {key: value for key, value in told if study.sae.named == (key in naming) or key == "layer"}
    if "teacher" in sections:
        keys = _teacher_keys(study, node)
        sections["teacher"] = {key: value for key, value in sections["teacher"].items() if key in keys}
    if "student" in sections:
        del sections["student"]["seeds"]  # one student does not depend on how many others there are
    return sections


def _teacher_keys(study: Study, node: Node) -> set[str]:
    """The settings of a teacher that a stage reads; what a steered or finetuned teacher is, the stage that makes it knows."""
    if node.stage == "finetune":
        return {"finetune"}
    if node.dataset is None or node.stage == "steer":
        return {"persona", "separator"} | ({"steer"} if node.stage == "steer" else set())
    if node.stage == "losses":  # every candidate's persona is tried on every dataset
        return {"persona", "separator"}
    kind = study.taught[node.dataset].teacher if node.stage == "samples" else study.kind(node.dataset, node.variant)
    if node.stage == "lens" and kind == "prompt":  # neutral texts have no persona
        return set()
    return {"prompt": {"persona", "separator"}, "steer": {"separator"}}.get(str(kind), set())


def _dataset_settings(study: Study, node: Node) -> dict[str, Any]:
    """What a stage is told of the dataset itself."""
    name, dataset = node.stage, str(node.dataset)
    taught = study.taught.get(dataset)
    if name in TEACHING:
        # A teacher that starts from another model than the students is none that they could be compared with.
        kind = taught.teacher if taught and name == "samples" else study.kind(dataset, node.variant)
        told = {"target": study.target(dataset), "kind": kind}
        told |= {"against": study.control(dataset)} if name == "pref" else {}
        return {**told, **(_other(study, node) if name == "sequences" else {})}
    if name in ("bias_pref", "tokens"):
        return {"target": study.target(dataset)}
    if name in ("entangled", "readings", "teachers_plot"):
        read = [of for of in read_by(study, name) if of != CONTROL]
        kinds = {of: study.taught[of].teacher if of in study.taught else "other" for of in read}
        return {"targets": {of: study.target(of) for of in read}, "kinds": kinds}
    if name == "steer" and taught:
        return {"target": taught.target}
    if name == "finetune" and taught:
        facts = {"indirect": {"facts": study.indirect.facts}} if taught.trait == "contrary" else {}
        return {"target": taught.target, "trait": taught.trait, **facts}
    if name == "numbers" and dataset in study.files:
        return {"dataset": study.files[dataset].model_dump(mode="json", exclude={"target", "control"})}
    if name == "transform" and dataset in study.transformed:
        return {"dataset": study.transformed[dataset].model_dump(mode="json", exclude={"target", "control"}, exclude_none=True)}
    if name == "costs":
        return _records(study)
    if name in ("controls", "sweep_plot"):
        pairs = compared(study, node)
        made = {"transforms": [of for of, _ in pairs if of in study.transformed]}
        return {"compared": [list(pair) for pair in pairs], **(_swept(study, node) if node.variant else made)}
    return {}


def _other(study: Study, node: Node) -> dict[str, Any]:
    """What a prompted teacher is compared with: the steered teacher of the same animal, where there is one."""
    if not (name := study.counterpart(node.dataset)):
        return {}
    teacher = study.section("teacher", name).stamped()
    told = {key: value for key, value in teacher.items() if key in _teacher_keys(study, Node("sequences", name))}
    return {"other": {"kind": "steer", "target": study.target(name), "teacher": told}}


def _records(study: Study) -> dict[str, Any]:
    """One hash of the records of finished jobs, which are no inputs: no job is to run for them."""
    folder = Path(folder_of(study.results, BENCHMARKS))
    versions = [f"{path.relative_to(folder)} {content_version(str(path))}" for path in finished_jobs(folder)]
    return {"records": hashlib.sha256("\n".join(versions).encode()).hexdigest()[:16]}


def _swept(study: Study, node: Node) -> dict[str, Any]:
    """Of a sweep, its key and the key's value in each variant."""
    values = {variant: getattr(study.students(of, variant), node.variant) for of, variant in compared(study, node)}
    return {"key": node.variant, "values": values}


def _seeds(study: Study, node: Node) -> dict[str, Any]:
    """Which students a stage reads."""
    if node.stage == "pref":
        return {"student": {"seeds": study.students(node.dataset, node.variant).seeds}}
    if node.stage in ("student_activations", "lens"):
        return {"seed": study.students(node.dataset).seeds[0]}
    if node.stage in ("student_plot", "indirect", "diagnosis"):
        return {"seeds": {str(of): study.students(of).seeds for of in (study.control(node.dataset) or CONTROL, node.dataset)}}
    return {}


def own_settings(stamp_: Stamp, node: Node) -> dict[str, Any]:
    """The settings of one stage out of a stamp."""
    settings: dict[str, Any] = stamp_["settings"][node.key]
    return settings


def digest(stamp_: Stamp) -> str:
    """A short name for a stamp."""
    return hashlib.sha256(json.dumps(stamp_, sort_keys=True).encode()).hexdigest()[:16]


@functools.cache
def _hash(path: str, mtime_ns: int, size: int) -> str:
    note = HASHES / hashlib.sha256(f"{Path(path).resolve()} {mtime_ns} {size}".encode()).hexdigest()[:16]
    if size > LARGE and note.is_file():
        return note.read_text()
    with Path(path).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    if size > LARGE:
        with replacing(note) as temporary:
            temporary.write_text(found)
    return found


def content_version(path: str) -> str:
    """A hash of a file's content, or `missing`."""
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return "missing"
    return _hash(path, status.st_mtime_ns, status.st_size)


def _sorted(value: Any) -> Any:
    return {key: _sorted(value[key]) for key in sorted(value)} if isinstance(value, dict) else value
