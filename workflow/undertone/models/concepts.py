"""Files of concepts that a text may hold: words, tokens and patterns, by name."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undertone.models.wordings import load_yaml
from undertone.runtime.errors import ConfigError
from undertone.study.validation import nearest

KINDS = ("words", "tokens", "regex")
OPTIONS = ("each", "span", "within")
WORD = re.compile(r"\w+")
# Tokens behind a concept that can count as holding it.
FURTHEST = 1000


@dataclass(frozen=True)
class Concept:
    """What a token can hold: one of some words (with a plural's s, in any case) or tokens, or the end of a pattern's match.

    With `span` every token of a match holds it; with `within` also that many tokens behind.
    """

    words: frozenset[str] = frozenset()
    tokens: frozenset[str] = frozenset()
    regex: re.Pattern[str] | None = None
    span: bool = False
    within: int = 0


def read_concepts(path: Path, key: str) -> dict[str, Concept]:
    """The concepts of a file that the setting `key` names, by name. Raises ConfigError, which names the entry at fault."""
    entries = load_yaml(path, key)
    if not isinstance(entries, dict) or not entries:
        raise ConfigError(f"{key}: {path} holds no concept; expected a mapping of names to words, tokens or a regex")
    concepts: dict[str, Concept] = {}
    for name, entry in entries.items():
        for own, concept in _parsed(str(name), entry, f"{key}: {name} of {path}"):
            if own in concepts:
                raise ConfigError(f"{key}: {path} has two concepts {own!r}; rename one")
            concepts[own] = concept
    return concepts


def _parsed(name: str, entry: Any, where: str) -> Iterator[tuple[str, Concept]]:
    """A concept, and one for each of its words where the entry says so."""
    if not isinstance(entry, dict) or sum(kind in entry for kind in KINDS) != 1:
        raise ConfigError(f"{where}: expected a mapping with exactly one of {', '.join(KINDS)}, found {entry!r}")
    if unknown := sorted(set(entry) - {*KINDS, *OPTIONS}):
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}{nearest(unknown[0], [*KINDS, *OPTIONS])}")
    within, span = entry.get("within", 0), entry.get("span", False)
    if type(within) is not int or not 0 <= within <= FURTHEST or type(span) is not bool:
        raise ConfigError(f"{where}: within is a number of tokens from 0 to {FURTHEST} and span true or false; found {entry!r}")
    if "regex" in entry:
        yield name, Concept(regex=_compiled(entry["regex"], where), span=span, within=within)
        return
    if span:
        raise ConfigError(f"{where}: span is of a regex, whose matches may hold several tokens; leave it out")
    kind = "words" if "words" in entry else "tokens"
    listed = entry[kind]
    if not (isinstance(listed, list) and listed and all(isinstance(each, str) and each.strip() for each in listed)):
        raise ConfigError(f"{where}: {kind} must be a list of at least one text; numbers, yes, no, on and off need quotes")
    if spaced := [each for each in listed if kind == "words" and not WORD.fullmatch(each)]:
        raise ConfigError(f"{where}: {spaced[0]!r} is no single word; use a regex for it")
    for own, some in [(name, listed), *([(each, [each]) for each in listed] if entry.get("each") else [])]:
        texts = frozenset(each.strip().casefold() for each in some)
        yield own, Concept(texts, within=within) if kind == "words" else Concept(tokens=texts, within=within)


def _compiled(pattern: Any, where: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ConfigError(f"{where}: {pattern!r} is no regular expression ({error}); correct it") from None
