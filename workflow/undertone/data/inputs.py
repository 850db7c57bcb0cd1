"""The user's own files that a config names. They must exist, whatever has already been made of them.

Snakemake does not plan a rule whose output exists and whose input is missing. If a path is mistyped or moved later, what was
made of the old file would stay in force, under a stamp that names the new one.
"""

import difflib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from undertone.data.tree import load_tree
from undertone.lm.facts import load_facts
from undertone.lm.texts import check_plain, read_lines
from undertone.models.bank import Bank
from undertone.models.concepts import read_concepts, read_names
from undertone.models.corpus import check_corpus
from undertone.models.prompt_grammar import Grammar
from undertone.models.wordings import load_forms, load_template
from undertone.runtime.errors import ConfigError
from undertone.study.contents import LARGE_FILE
from undertone.study.formats import SAE_FILES
from undertone.study.sizes import special_tokens
from undertone.study.study import Study
from undertone.study.validation import Section, keys, nearest


def check_inputs(study: Study) -> None:
    """Raise ConfigError, with one line per file, unless every path that the study names leads to a file."""
    keys_of: dict[str, str] = {}
    for key, path in inputs(study):
        keys_of.setdefault(path, key)
    if mistakes := [mistake for path, key in keys_of.items() if (mistake := _mistake(key, path))]:
        raise ConfigError("\n".join(mistakes))
    check_animals(study)


def check_animals(study: Study) -> None:
    """Raise ConfigError for a target that the embedded model's corpus lacks; other models may know any animal."""
    if study.model.named:
        return
    corpus = study.model.embedded.corpus
    try:
        known = yaml.safe_load(Path(corpus).read_text())["animals"]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        return  # `check_contents` reports what is wrong with it
    targets = {name: study.target(name) for name in study.available}
    if unknown := {name: target for name, target in targets.items() if target and target not in known}:
        dataset, target = next(iter(unknown.items()))
        raise ConfigError(f"the target {target!r} of {dataset} is no animal of {corpus}{nearest(target, known)}")


def check_contents(study: Study) -> None:
    """Raise ConfigError, with one line per file, unless the files' contents can be used, as far as no model is needed.

    No file and no setting may contain a special token of a model whose tokenizer is at hand. A large file of a dataset is left
    to the job that reads it.
    """
    special = set().union(*(special_tokens(study.base_model(name)) for name in ("", *study.models)))
    mistakes = []
    for key, path in inputs(study):
        try:
            if read := FILE_READERS.get(key.split(".")[-1]):
                read(Path(path), key)
                check_plain([Path(path).read_text()], special, f"{key}: {path}")
            elif key.startswith("sae.text."):
                check_text(study, key)
            elif key.startswith("hierarchies."):
                load_tree(Path(path), key)
                check_plain([Path(path).read_text()], special, f"{key}: {path}")
            elif key.startswith("datasets.") and Path(path).stat().st_size <= LARGE_FILE:
                check_plain(chain(*rows_of_file(study, key)), special, f"{key}: {path}")
        except ConfigError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    for key, text in written(study.model_dump(by_alias=True)):
        check_plain([text], special, key)


def written(settings: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield (key, text) of every setting that is a text."""
    if isinstance(settings, str):
        yield key, settings
    parts = settings.items() if isinstance(settings, dict) else enumerate(settings) if isinstance(settings, list) else ()
    for name, part in parts:
        yield from written(part, f"{key}.{name}" if key else str(name))


def rows_of_file(study: Study, key: str) -> Iterator[tuple[str, str]]:
    """Yield (prompt, completion) of a dataset's file. Raises ConfigError, naming the setting, unless it can be read."""
    from undertone.data.datasets import read_dataset  # loads polars, which no other file needs

    entry = study.files[key.split(".")[1]]
    try:
        yield from read_dataset(Path(entry.file), entry.prompt, entry.completion).select("prompt", "text").iter_rows()
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None


def check_text(study: Study, key: str) -> None:
    """Raise ConfigError, naming the setting, unless a file that the SAE is trained on begins with text."""
    from undertone.saes.documents import documents  # no other file needs it

    source = study.sae.text[int(key.split(".")[2])]
    try:
        if next(documents(source), None) is None:
            raise ConfigError(f"{source.title}: holds no text")
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None


# The function that reads a file, by the last part of its key.
FILE_READERS: dict[str, Callable[[Path, str], object]] = {
    "questions": read_lines,
    "neutral": read_lines,
    "facts": lambda path, key: load_facts(path),
    "template": lambda path, key: load_template(path),
    "forms": lambda path, key: load_forms(path),
    "corpus": check_corpus,
    "bank": Bank.read,
    "grammar": Grammar.read,
    "concepts": read_concepts,
    "names": read_names,
}


def inputs(study: Study) -> Iterator[tuple[str, str]]:
    """Yield (key, path) of every file that the study reads and does not make."""
    for name in Study.model_fields:
        if isinstance(section := getattr(study, name), Section):
            yield from _paths(section, f"{name}.")
    for name in study.models:
        yield from _paths(study.base_model(name), f"models.{name}.")
    yield from ((f"saes.{name}.folder", str(sae["folder"])) for name, sae in study.saes.items() if sae.get("folder"))
    for kind, entries in (("hierarchies", study.hierarchies), ("vectors", study.vectors)):
        for name, entry in entries.items():
            yield from _paths(entry, f"{kind}.{name}.")
    for name, dataset in study.files.items():
        yield f"datasets.{name}.file", dataset.file
    for name, sections in study.overrides.items():
        for section_name in sections:
            yield from _paths(study.section(section_name, name), f"overrides.{name}.{section_name}.")


def _paths(section: Section, where: str) -> Iterator[tuple[str, str]]:
    """Yield (key, path) of a section's settings whose unit is a path.

    For a model that has a name, those of the embedded model are left out.
    """
    for key, field in keys(type(section)).items():
        value = getattr(section, key)
        if key == "embedded" and section.named:  # type: ignore[attr-defined]
            continue
        if isinstance(value, Section):
            yield from _paths(value, f"{where}{key}.")
        elif isinstance(value, list):
            yield from (
                path for k, part in enumerate(value) if isinstance(part, Section) for path in _paths(part, f"{where}{key}.{k}.")
            )
        elif isinstance(field.json_schema_extra, dict) and field.json_schema_extra["unit"] == "path" and value is not None:
            files = [f"{value}/{name}" for name in SAE_FILES] if key == "folder" else [value]
            yield from ((where + key, file) for file in files)


def _mistake(key: str, path: str) -> str:
    """Return what is wrong with a file, or ""."""
    if set("{}") & set(path):
        return f"{key}: {path!r} has braces, which Snakemake takes for wildcards; rename the file"
    if Path(path).is_file():
        return ""
    if Path(path).exists():
        return f"{key}: {path!r} is a {'folder' if Path(path).is_dir() else 'device or pipe'}, expected a file"
    home = "; '~' means nothing here, write the whole path" if path.startswith("~") else ""
    return f"{key}: no such file {path!r}, looked for in {Path.cwd()}{home or _nearest(Path(path))}; correct the path"


def _nearest(path: Path) -> str:
    """Name the files in the same folder with similar names."""
    beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, beside, n=3)
    return f"; nearest: {', '.join(str(path.parent / name) for name in close)}" if close else ""
