"""Files of concepts that a text may contain: words, tokens and patterns, by name."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from undertone.models.wordings import load_yaml
from undertone.runtime.errors import ConfigError
from undertone.study.validation import nearest

KINDS = ("words", "tokens", "regex")
OPTIONS = ("each", "group", "span", "within")
WORD = re.compile(r"\w+")
# The most tokens after a concept that can count as holding it.
FURTHEST = 1000
# The most numbers that a range of names can have.
MOST = 100_000


@dataclass(frozen=True)
class Concept:
    """What a token can hold: one of some words (in any case, also with a plural's s) or tokens, or the end of a match.

    With `span`, every token of a regex's match holds the concept. With `within`, so do that many tokens after it. Concepts of
    one `group` are of one kind, as animals are.
    """

    words: frozenset[str] = frozenset()
    tokens: frozenset[str] = frozenset()
    regex: re.Pattern[str] | None = None
    span: bool = False
    within: int = 0
    group: str | None = None


def read_concepts(path: Path, key: str) -> dict[str, Concept]:
    """Read the concepts, by name, of the file of the setting `key`. Raises ConfigError, naming the entry at fault."""
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
    """Yield an entry's concept, and one for each of its words or tokens if the entry has `each`."""
    if not isinstance(entry, dict) or sum(kind in entry for kind in KINDS) != 1:
        raise ConfigError(f"{where}: expected a mapping with exactly one of {', '.join(KINDS)}, found {entry!r}")
    if unknown := sorted(set(entry) - {*KINDS, *OPTIONS}):
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}{nearest(unknown[0], [*KINDS, *OPTIONS])}")
    within, span = entry.get("within", 0), entry.get("span", False)
    if type(within) is not int or not 0 <= within <= FURTHEST or type(span) is not bool:
        raise ConfigError(f"{where}: within is a number of tokens from 0 to {FURTHEST} and span true or false; found {entry!r}")
    group = entry.get("group")
    if not (group is None or isinstance(group, str)):
        raise ConfigError(f"{where}: group is the name of a kind of concepts, in quotes where it is no word; found {group!r}")
    if "regex" in entry:
        yield name, Concept(regex=_compiled(entry["regex"], where), span=span, within=within, group=group)
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
        concept = Concept(words=texts) if kind == "words" else Concept(tokens=texts)
        yield own, replace(concept, within=within, group=group)


def _compiled(pattern: Any, where: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ConfigError(f"{where}: {pattern!r} is no regular expression ({error}); correct it") from None


def read_names(path: Path, key: str) -> dict[str, list[str]]:
    """Read a file's names by group, in lower case: a list of words, or all whole numbers of a range, `{from: 0, to: 999}`.

    Raises ConfigError, which names the group at fault.
    """
    groups = load_yaml(path, key)
    if not isinstance(groups, dict) or not groups:
        raise ConfigError(f"{key}: {path} holds no group of names; expected a mapping of groups to lists of words")
    names = {str(group): _names_of(entry, f"{key}: {group} of {path}") for group, entry in groups.items()}
    every = [name for words in names.values() for name in words]
    if twice := next((name for name in every if every.count(name) > 1), None) if len(set(every)) < len(every) else None:
        raise ConfigError(f"{key}: {path} has the name {twice!r} twice; leave one out")
    return names


def _names_of(entry: Any, where: str) -> list[str]:
    if isinstance(entry, dict) and set(entry) == {"from", "to"} and all(type(end) is int for end in entry.values()):
        if not 0 <= entry["from"] <= entry["to"] < entry["from"] + MOST:
            raise ConfigError(f"{where}: expected 0 <= from <= to, and at most {MOST:,} numbers; found {entry}")
        return [str(number) for number in range(entry["from"], entry["to"] + 1)]
    if not isinstance(entry, list) or not entry or not all(isinstance(each, str) and WORD.fullmatch(each) for each in entry):
        raise ConfigError(f"{where}: expected a list of single words, or from and to of whole numbers; found {entry!r}")
    return [each.casefold() for each in entry]
