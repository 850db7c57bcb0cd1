"""Checks of config files as text: report invalid YAML and duplicate keys with the file and the line.

Snakemake names neither file nor line. `python -m undertone.study.configfiles FILE …` checks overlays that it refuses.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from undertone.runtime.errors import ConfigError


def check_config_files(paths: Iterable[str | Path]) -> None:
    """Raise ConfigError, with a line per file, unless each file that exists is UTF-8 and holds keys, none of them twice."""
    mistakes = []
    for path in (path for path in map(Path, paths) if path.exists()):
        try:
            read_config(path)
        except ConfigError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def read_config(path: Path) -> dict[str, Any]:
    """The keys of a config file in JSON or YAML. Raises ConfigError with its path and the line at fault."""
    text = _text(path)
    try:
        config = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, path))
    except json.JSONDecodeError:
        config = _yaml(text, path)
    if not isinstance(config, dict):
        holds = "nothing" if config is None else f"a {type(config).__name__}"
        raise ConfigError(f"{path} holds {holds}; expected keys with their values, such as `animals: [lion]`")
    return config


def _text(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file, or none that can be read as a config")
    content = path.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: byte {content[error.start]:#x} is no UTF-8; save the file as UTF-8") from None


def _once(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise ConfigError(f"{path}: the key {twice!r} stands twice in one section; keep one")
    return dict(pairs)


class _Loader(yaml.SafeLoader):
    """A YAML loader that refuses a duplicate key in a section, where YAML itself would take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            name = key.value
            if name in lines and key.tag != "tag:yaml.org,2002:merge":
                problem = f"the key {name!r} stands twice in one section, first in line {lines[name] + 1}; keep one"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[name] = key.start_mark.line
        return super().construct_mapping(node, deep)


def _yaml(text: str, path: Path) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise ConfigError(
            f"{path}, line {line}: the character {error.character:#04x} cannot stand in YAML; delete it"
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        tab = "; indent with spaces, not tabs" if "\\t" in str(error.problem) else ""
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{path}{where}: {problem}{tab}") from None


if __name__ == "__main__":
    try:
        check_config_files(sys.argv[1:])
    except ConfigError as mistakes:
        sys.exit(str(mistakes))
