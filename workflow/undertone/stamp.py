"""The stamp: everything that a result depends on, as one plain dict that Snakemake compares.

A stamp holds the settings, the code and the contents of the user's files of a stage and of every stage before it, so that
a result is stale exactly when one of them changed, even after a failed or killed run (docs/staleness.md).
"""

import ast
import functools
import hashlib
import io
import json
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from undertone.config import CONTROL
from undertone.files import Stamp, replacing
from undertone.paths import BENCHMARKS, folder_of
from undertone.stages import STAGES, TEACHING, Node, ancestors, compared, finished_jobs, read_by
from undertone.study import Study
from undertone.validation import Section

PACKAGE = Path(__file__).parent
SCRIPTS = PACKAGE.parent / "scripts"
# Modules that say what is compared, how it is written and how much is run at once, not what is computed: the settings that
# count are in the stamp itself, and a new key, message or progress bar must not cost a GPU-week.
NEUTRAL = {
    *("config.py", "study.py", "validation.py", "paths.py", "sizes.py", "stages.py", "stamp.py"),
    *("files.py", "memory.py", "progress.py", "job.py", "failures.py"),
}
# Every job's process computes its stamp, so what a file of more bytes than this (a local model's weights) hashes to is noted.
LARGE = 2**26
HASHES = Path("scratch/hashes")
# Tokens that change nothing a program does.
MUTE = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING}


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
    sections = {name: section_of(study, name, node).model_dump(mode="json") for name in STAGES[node.stage].sections}
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
    teacher = study.section("teacher", name).model_dump(mode="json")
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
def code_of(name: str) -> dict[str, str]:
    """The version of each file of a stage's code, by its path."""
    return {str(path.relative_to(PACKAGE.parent)): code_version(path) for path in sources(name)}


def sources(name: str) -> list[Path]:
    """The files that a stage's code is made of: its script and every module of the package that it imports, directly or not."""
    found: list[Path] = []
    pending = [SCRIPTS / f"{name}.py"]
    while pending:
        path = pending.pop()
        if path not in found:
            found.append(path)
            pending += imports(path)
    return sorted(path for path in found if path.name not in NEUTRAL)


@functools.cache
def imports(path: Path) -> tuple[Path, ...]:
    """The package's modules that a file imports, wherever in the file; nothing is executed."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    own = (name.removeprefix("undertone.") for name in names if name.startswith("undertone."))
    files = (PACKAGE.joinpath(*name.split(".")).with_suffix(".py") for name in own)
    return tuple(sorted(file for file in files if file.is_file()))


@functools.cache
def code_version(path: Path) -> str:
    """A hash of what a file does: comments, docstrings and layout do not count."""
    tokens = list(_telling(tokenize.generate_tokens(io.StringIO(path.read_text()).readline)))
    return hashlib.sha256("\n".join(tokens).encode()).hexdigest()[:8]


def _telling(tokens: Iterator[tokenize.TokenInfo]) -> Iterator[str]:
    line: list[tokenize.TokenInfo] = []
    for token in tokens:
        if token.type in MUTE:
            continue
        line.append(token)
        if token.type == tokenize.NEWLINE:
            indents = [t for t in line if t.type in (tokenize.INDENT, tokenize.DEDENT)]
            docstring = [t.type for t in line[len(indents) :]] == [tokenize.STRING, tokenize.NEWLINE]
            yield from (t.string for t in (indents if docstring else line))
            line = []
    yield from (t.string for t in line)


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
