"""Files of wordings with placeholders: the six components of the number prompts, and the forms of the indirect questions."""

import string
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from undertone.runtime.errors import ConfigError

COMPONENTS = ("example", "instruction", "qualifier", "digits", "format", "final")
PLACEHOLDERS = {
    "example": {"examples"},
    "instruction": {"qualifier", "count", "digits"},
    "qualifier": set(),
    "digits": {"max_digits"},
    "format": set(),
    "final": set(),
}
# The placeholders that an indirect question may contain.
FIELDS = ("examples", "question", "options", "count")
FACTS = ("contrary", "right")  # the names of the answers to questions of fact


def load_template(path: Path) -> dict[str, list[str]]:
    """Read the wordings of the six components. Raises ConfigError that names the component at fault."""
    template = load_yaml(path, "prompts.template")
    if not isinstance(template, dict) or set(template) != set(COMPONENTS):
        given = ", ".join(map(str, template)) if isinstance(template, dict) else type(template).__name__
        raise ConfigError(f"{path}: expected exactly the components {', '.join(COMPONENTS)}, found {given}")
    for component, wordings in template.items():
        if not isinstance(wordings, list) or not wordings or not all(isinstance(w, str) for w in wordings):
            raise ConfigError(f"{path}: {component} must be a list of at least one text")
        for wording in wordings:
            check_placeholders(wording, PLACEHOLDERS[component], PLACEHOLDERS[component], f"{path}: {component}")
    return template


def load_forms(path: Path) -> dict[str, list[str]]:
    """Read the wordings of each form. Raises ConfigError for an unknown placeholder or an empty form."""
    forms = load_yaml(path, "indirect.forms")
    if not isinstance(forms, dict) or not forms:
        raise ConfigError(f"indirect.forms: {path} holds no form; expected a mapping of names to lists of wordings")
    for form, wordings in forms.items():
        if not isinstance(wordings, list) or not wordings or not all(isinstance(wording, str) for wording in wordings):
            raise ConfigError(f"indirect.forms: {form} of {path} is no list of wordings")
        if form in FACTS:
            raise ConfigError(
                f"indirect.forms: {form} of {path}: the answers to questions of fact have this name; choose another"
            )
        for wording in wordings:
            check_placeholders(wording, FIELDS, (), f"indirect.forms: {form} of {path}")
    return forms


class NoneTwice(yaml.SafeLoader):
    """A YAML loader that refuses a mapping with a repeated key. YAML itself keeps the last one and drops the others."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping. Raises ConstructorError if a key is repeated."""
        names = [name.value for name, _ in node.value if isinstance(name, yaml.ScalarNode) and name.value != "<<"]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path, key: str) -> Any:
    """Read the YAML file of the setting `key`. Raises ConfigError, naming both, also if a key of a mapping is repeated."""
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8-sig"), NoneTwice)  # a loader of plain data alone
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{key}: cannot read {path}: {error}") from None


def check_placeholders(wording: str, known: Collection[str], needed: Collection[str], where: str) -> None:
    """Raise ConfigError unless a wording's placeholders are all in `known` and include all of `needed`."""
    listed = ", ".join(f"{{{name}}}" for name in sorted(known)) or "none"
    try:
        parts = [part for _, *part in string.Formatter().parse(wording) if part[0] is not None]
    except ValueError as error:
        raise ConfigError(f"{where}: {wording!r}: {error}; known placeholders: {listed}") from None
    for name, form, conversion in parts:
        if name not in known or form or conversion:
            written = f"{name}{'!' if conversion else ''}{conversion or ''}{':' if form else ''}{form}"
            raise ConfigError(f"{where}: {wording!r} holds {{{written}}}; known placeholders: {listed}")
    for name in sorted(set(needed) - {name for name, _, _ in parts}):
        raise ConfigError(f"{where}: {wording!r} lacks {{{name}}}")
