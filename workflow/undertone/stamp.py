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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undertone.config import CONTROL, Study
from undertone.files import Stamp

PACKAGE = Path(__file__).parent
SCRIPTS = PACKAGE.parent / "scripts"
# Modules that say what is compared and how it is written, not what is computed: the settings that count are in the stamp
# itself, and a new key, message or progress bar must not cost a GPU-week.
NEUTRAL = {"config.py", "stamp.py", "files.py", "progress.py", "job.py"}
SAE_FILES = ("cfg.json", "sae_weights.safetensors")  # of a folder in SAELens's format
# Tokens that change nothing a program does.
MUTE = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING}


@dataclass(frozen=True)
class Stage:
    """A stage of the workflow; rule, script and module share its name.

    `after` names the stages it reads, for the same dataset; `after_control` those it reads for the control; `after_all`
    those it reads for every dataset. `sections` are the settings it uses, `files` the study's files it reads.
    """

    sections: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    after_control: tuple[str, ...] = ()
    after_all: tuple[str, ...] = ()
    files: Callable[[Study, str | None], list[str]] = lambda study, dataset: []
    shared: bool = False  # one for the whole study, not one per dataset


def _own_file(study: Study, dataset: str | None) -> list[str]:
    return [study.files[dataset].file] if dataset in study.files else []


def _corpus(study: Study, dataset: str | None) -> list[str]:
    return [] if study.model.name else [study.model.embedded.corpus]


def _sae_files(study: Study, dataset: str | None) -> list[str]:
    folder = study.sae.folder
    return [f"{folder}/{name}" for name in SAE_FILES] if folder else [] if study.sae.release else _corpus(study, dataset)


STAGES = {
    "model": Stage(("model",), files=_corpus, shared=True),
    "sae": Stage(("sae", "model"), after=("model",), files=_sae_files, shared=True),
    "sae_metrics": Stage(
        ("teacher", "pref"), after=("sae", "prompts"), files=lambda study, _: [study.pref.questions], shared=True
    ),
    "prompts": Stage(("prompts",), files=lambda study, _: [study.prompts.template], shared=True),
    "model_metrics": Stage(
        ("model", "teacher", "samples", "numbers", "pref"),
        after=("model", "prompts"),
        files=lambda study, _: [study.pref.questions],
        shared=True,
    ),
    "samples": Stage(("teacher", "samples"), after=("model", "prompts")),
    "numbers": Stage(("numbers",), after=("samples",), files=_own_file),
    "transform": Stage(),
    "student": Stage(("student",), after=("model", "numbers")),
    "pref": Stage(
        ("pref", "teacher"), after=("student",), after_control=("pref",), files=lambda study, _: [study.pref.questions]
    ),
    "filter_plot": Stage(after=("numbers",), after_control=("numbers",)),
    "student_plot": Stage(after=("student",), after_control=("student",)),
    "pref_plot": Stage(after=("pref",)),
    "transfer": Stage(after_all=("pref",), shared=True),
    "transfer_plot": Stage(after=("transfer",), shared=True),
    "preference_plot": Stage(after=("transfer",), shared=True),
    "transform_plot": Stage(after=("transfer",), shared=True),
}


def ancestors(study: Study, name: str, dataset: str | None) -> list[tuple[str, str | None]]:
    """(stage, dataset) of a stage and of all before it, those first; dataset is None for stages of the whole study."""
    stage = STAGES[name]
    own = None if stage.shared else dataset
    before = [(parent, own) for parent in stage.after]
    before += [(parent, CONTROL) for parent in stage.after_control if dataset != CONTROL]
    before += [(parent, other) for parent in stage.after_all for other in study.names]
    if name == "numbers" and dataset in study.files:
        before = []  # a user's own file has no teacher
    if name == "transform" and dataset in study.transformed:
        before = [("numbers", source) for source in study.sources(dataset)]
        before += [("prompts", None)] if study.transformed[dataset].transform == "one-format" else []
    # The numbers of a transformed dataset come from its transform.
    before = [("transform" if parent == "numbers" and of in study.transformed else parent, of) for parent, of in before]
    found = [pair for parent, of in before for pair in ancestors(study, parent, None if STAGES[parent].shared else of)]
    return list(dict.fromkeys([*found, (name, own)]))


def stamp(study: Study, name: str, dataset: str | None = None) -> Stamp:
    """The stamp of a stage's result: settings by `stage` or `dataset/stage`, code by file, file contents by path."""
    settings: dict[str, Any] = {}
    code: dict[str, str] = {}
    files: dict[str, str] = {}
    for stage, of in ancestors(study, name, dataset):
        if own := settings_of(study, stage, of):
            settings[f"{of}/{stage}" if of else stage] = own
        code |= {str(path.relative_to(PACKAGE.parent)): code_version(path) for path in sources(stage)}
        files |= {path: content_version(path) for path in STAGES[stage].files(study, of)}
    return _sorted({"settings": settings, "code": code, "files": files})


def settings_of(study: Study, name: str, dataset: str | None) -> dict[str, Any]:
    """What a stage of a dataset is told: its sections and, where it matters, what the dataset is."""
    sections = {section: study.section(section, dataset).model_dump(mode="json") for section in STAGES[name].sections}
    return _relevant(study, dataset, sections) | _dataset_settings(study, name, dataset) | _seeds(study, name, dataset)


def _relevant(study: Study, dataset: str | None, sections: dict[str, Any]) -> dict[str, Any]:
    """The sections without what does not concern this study or dataset."""
    if "model" in sections:
        # The embedded model's settings do not concern a study that brings a model, nor a revision one that trains its own.
        del sections["model"]["embedded" if study.model.name else "revision"]
    if "sae" in sections:
        # A trained SAE has no name, and one that has a name was not trained here.
        naming = {"release", "id", "folder"}
        told = sections["sae"].items()
        sections["sae"] = {key: value for key, value in told if study.sae.named == (key in naming) or key == "layer"}
    if "teacher" in sections and dataset and dataset not in study.animals:
        sections["teacher"] = {}  # no teacher, or one without a persona
    if "student" in sections:
        del sections["student"]["seeds"]  # one student does not depend on how many others there are
    return sections


def _dataset_settings(study: Study, name: str, dataset: str | None) -> dict[str, Any]:
    """What a stage is told of the dataset itself."""
    if name == "samples":
        return {"target": study.target(dataset or "")}
    if name == "numbers" and dataset in study.files:
        return {"dataset": study.files[dataset].model_dump(mode="json", exclude={"target"})}
    if name == "transform" and dataset in study.transformed:
        return {"dataset": study.transformed[dataset].model_dump(mode="json", exclude={"target"}, exclude_none=True)}
    if name == "transform_plot":
        made = study.transformed
        return {"groups": {told.parent: [of for of in made if made[of].parent == told.parent] for told in made.values()}}
    if name == "pref":
        return {"target": study.target(dataset or ""), "prompted": dataset in study.animals}
    return {}


def _seeds(study: Study, name: str, dataset: str | None) -> dict[str, Any]:
    """Which students a stage reads."""
    if name == "student_plot":
        return {"seeds": {of: study.section("student", of).model_dump()["seeds"] for of in (CONTROL, dataset)}}
    if name == "pref":
        return {"student": {"seeds": study.section("student", dataset).model_dump()["seeds"]}}
    return {}


def own_settings(stamp_: Stamp, name: str, dataset: str | None = None) -> dict[str, Any]:
    """The settings of one stage out of a stamp."""
    settings: dict[str, Any] = stamp_["settings"][f"{dataset}/{name}" if dataset else name]
    return settings


def digest(stamp_: Stamp) -> str:
    """A short name for a stamp."""
    return hashlib.sha256(json.dumps(stamp_, sort_keys=True).encode()).hexdigest()[:16]


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
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def content_version(path: str) -> str:
    """A hash of a file's content, or `missing`."""
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return "missing"
    return _hash(path, status.st_mtime_ns, status.st_size)


def _sorted(value: Any) -> Any:
    return {key: _sorted(value[key]) for key in sorted(value)} if isinstance(value, dict) else value
