"""Sections of settings, and the messages for settings that cannot be used."""

import difflib
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType, UnionType
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from undertone.runtime.errors import ConfigError

# Larger than any number, seeds included, that is meaningful in a study.
LARGEST = 10**15


class Section(BaseModel):
    """A group of settings; unknown keys are refused.

    `later` holds keys that were added after results had been made, each with the value that changes nothing. That value must be
    the key's default.
    """

    later: ClassVar[dict[str, Any]] = {}
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def no_boolean_is_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse Booleans as numbers, as YAML reads yes and on as true, which Python counts as 1; refuse too large numbers."""
        expects_boolean = bool in _types(cls.model_fields[str(info.field_name)].annotation)
        if expects_boolean and not isinstance(value, bool):
            raise ValueError(f"expected true or false, found {value!r}")
        parts = value if isinstance(value, list) else [value]
        if not expects_boolean and (booleans := [part for part in parts if isinstance(part, bool)]):
            raise ValueError(
                f"YAML reads yes, no, on, off, true and false as Booleans, found {booleans[0]!r}; write what is meant"
            )
        if large := [part for part in parts if isinstance(part, int | float) and LARGEST < abs(part) < math.inf]:
            raise ValueError(f"no setting is as large as {large[0]!r}")
        return value

    def stamped(self) -> dict[str, Any]:
        """The settings as JSON for a stamp, without the keys of `later` that change nothing: adding one reruns nothing."""
        settings = self.model_dump(mode="json")
        settings |= {name: value.stamped() for name, value in self if isinstance(value, Section)}
        return {name: value for name, value in settings.items() if name not in self.later or value != self.later[name]}


S = TypeVar("S", bound=Section)


def setting(default: Any, meaning: str, unit: str = "", **bounds: Any) -> Any:
    """A setting with its default, meaning, unit and bounds."""
    factory = {"default_factory": lambda: default} if isinstance(default, dict | list) else {"default": default}
    return Field(description=meaning, json_schema_extra={"unit": unit}, **factory, **bounds)


def validate(
    section: type[S], values: dict[str, Any], where: str, entries: Mapping[str, type[Section]] = MappingProxyType({})
) -> S:
    """Validate one section's values; `where` is the dotted prefix of keys in error messages.

    `entries` are the sections that a dataset can be, by the tag with which pydantic tells them apart. Raises ConfigError with
    one line per mistake.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(section, where, dict(e), entries) for e in error.errors())) from None


def _explain(section: type[Section], where: str, error: dict[str, Any], entries: Mapping[str, type[Section]]) -> str:
    path = [str(part) for part in error["loc"]]
    if path[-1:] == ["[key]"]:
        return f"{where}{'.'.join(path[:-1])}: a name is text, found {error['input']!r}; write it in quotes"
    if entries and path[:1] == ["datasets"] and len(path) > 2:
        section, where, path = entries[path[2]], f"{where}datasets.{path[1]}.", path[3:]
    key = (where + ".".join(path)).rstrip(".")
    if error["type"] == "extra_forbidden":
        owner = section
        for part in path[:-1]:
            owner = _child(owner, part)
        return f"{key}: unknown key{nearest(path[-1], keys(owner))}"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if error["type"] == "model_type":
        message = "expected keys with their values"
    given = "" if error["type"] == "value_error" else f", found {error['input']!r}"
    return f"{key}: {message}{given}" if key else f"{message}{given}"


def _child(section: type[Section], part: str) -> type[Section]:
    field = section.model_fields.get(part)
    return next(sections_of(field.annotation), section) if field else section


def keys(section: type[Section]) -> dict[str, FieldInfo]:
    """A section's fields by the name that a config gives them."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _types(annotation: Any) -> set[Any]:
    """The types in an annotation such as `bool | None`, without the types of items in containers."""
    return {annotation, *(arm for arm in getattr(annotation, "__args__", ()) if isinstance(annotation, UnionType))}


def sections_of(annotation: Any) -> Iterator[type[Section]]:
    """The section classes inside an annotation such as `Canonical | None` or `dict[str, Dataset]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from sections_of(argument)


def merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The settings with the changes laid over them, nested ones key by key."""
    both = {
        key: merged(settings[key], changes[key]) for key in settings if isinstance(changes.get(key), dict) and settings[key]
    }
    return {**settings, **changes, **both}


def nearest(word: str, known: Any) -> str:
    """'; nearest: …' for the known words that look like `word`, or all of them if none does."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"; nearest: {', '.join(close)}" if close else f"; known: {', '.join(sorted(known))}"
