"""A tree of concepts: sets of words, each within its parent's."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from undertone.models.wordings import load_yaml
from undertone.runtime.errors import ConfigError

ROOT = "all words"
# Digits of the integers of the built-in tree.
DIGITS = (1, 2, 3)


@dataclass(frozen=True)
class Tree:
    """Sets of words by name, parents before their children; the first contains every word.

    `parents` holds each set's parent (-1: none), `members` the sorted indices of its words.
    """

    words: tuple[str, ...]
    names: tuple[str, ...]
    parents: tuple[int, ...]
    members: tuple[Int[np.ndarray, " n_members"], ...]

    @cached_property
    def children(self) -> dict[int, list[int]]:
        """The children of each set that has any."""
        by_parent: dict[int, list[int]] = {}
        for child, parent in enumerate(self.parents):
            if parent >= 0:
                by_parent.setdefault(parent, []).append(child)
        return by_parent

    @property
    def sizes(self) -> list[int]:
        """The number of words of each set."""
        return [len(each) for each in self.members]

    @property
    def distances(self) -> Int[np.ndarray, "n_sets n_sets"]:
        """The number of edges between each pair of sets."""
        return _distances(self.parents)

    @property
    def described(self) -> list[dict[str, Any]]:
        """Each set's name, parent and number of words."""
        rows = zip(self.names, self.parents, self.sizes, strict=True)
        return [{"name": name, "parent": self.names[above] if above >= 0 else None, "words": n} for name, above, n in rows]

    def of_words(self, kept: Sequence[int], least: int) -> "Tree":
        """Return the tree of some of the words. Sets of fewer than `least` of them are dropped, with their children.

        A set with the same words as its parent adds nothing and is dropped; its children become the parent's.
        """
        place = {word: k for k, word in enumerate(kept)}
        names: list[str] = []
        parents: list[int] = []
        members: list[np.ndarray] = []
        standing: dict[int, int] = {-1: -1}
        for node, name in enumerate(self.names):
            within = np.array([place[word] for word in self.members[node] if word in place], dtype=int)
            above = self.parents[node]
            if above not in standing or len(within) < least:
                continue
            if above >= 0 and len(within) == len(members[standing[above]]):
                standing[node] = standing[above]
                continue
            standing[node] = len(names)
            names.append(name)
            parents.append(standing[above])
            members.append(within)
        return Tree(tuple(self.words[word] for word in kept), tuple(names), tuple(parents), tuple(members))

    def redrawn(self, rng: np.random.Generator) -> "Tree":
        """Return the tree with words exchanged at random among siblings without children. All other sets stay the same."""
        members = list(self.members)
        for children in self.children.values():
            leaves = [child for child in children if child not in self.children]
            shuffled = rng.permutation(np.concatenate([self.members[leaf] for leaf in leaves])) if leaves else np.array([])
            ends = np.cumsum([len(self.members[leaf]) for leaf in leaves])
            for leaf, end in zip(leaves, ends, strict=True):
                members[leaf] = np.sort(shuffled[end - len(self.members[leaf]) : end])
        return replace(self, members=tuple(members))


def load_tree(path: Path, key: str = "hierarchies") -> Tree:
    """Read a tree from a YAML file of nested names whose leaves are lists of words.

    Raises ConfigError if the file is no such tree, if a word is in two leaves, or if two sets have the same name.
    """
    content = load_yaml(path, key)
    if not isinstance(content, Mapping) or not content:
        raise ConfigError(f"{path}: expected names of concepts, each with more names or a list of words")
    rows = [(ROOT, -1, list(_words(content, path))), *_sets(content, 0, path, [0])]
    words = rows[0][2]
    for kind, listed in (("word", words), ("concept", [name for name, *_ in rows])):
        if twice := sorted({each for each in listed if listed.count(each) > 1}):
            raise ConfigError(f"{path}: the {kind} {twice[0]!r} stands there twice")
    return _tree(rows)


def integers_tree() -> Tree:
    """Return the integers from 0 to 999 by number of digits, then by hundreds, then by tens; without leading zeros."""
    content: dict[str, Any] = {}
    for number in range(10 ** DIGITS[-1]):
        digits = len(str(number))
        level = content.setdefault(f"{digits} digit{'s' * (digits > 1)}", {} if digits > 1 else [])
        for place in range(digits - 1, 1, -1):
            level = level.setdefault(f"{number // 10**place * 10**place} to {(number // 10**place + 1) * 10**place - 1}", {})
        if digits > 1:
            level = level.setdefault(f"{number // 10 * 10} to {number // 10 * 10 + 9}", [])
        level.append(str(number))
    path = Path("numbers")
    return _tree([(ROOT, -1, list(_words(content, path))), *_sets(content, 0, path, [0])])


@lru_cache(maxsize=1)  # redrawn trees have the same sets
def _distances(parents: tuple[int, ...]) -> Int[np.ndarray, "n_sets n_sets"]:
    """Return the number of edges between each pair of sets, given each set's parent."""
    above = np.zeros((len(parents), len(parents)), dtype=int)  # whether the column's set is the row's or above it
    for node, parent in enumerate(parents):
        above[node] = above[parent] if parent >= 0 else 0
        above[node, node] = 1
    shared = above @ above.T
    depths = np.diag(shared)
    return depths[:, None] + depths[None, :] - 2 * shared


def _tree(rows: Sequence[tuple[str, int, list[str]]]) -> Tree:
    """Build a tree from (name, parent, words) of each set; the first set holds all words."""
    words = rows[0][2]
    place = {word: k for k, word in enumerate(words)}
    names, parents, held = zip(*rows, strict=True)
    members = tuple(np.array(sorted(place[word] for word in each)) for each in held)
    return Tree(tuple(words), names, parents, members)


def _sets(content: Mapping[str, Any], parent: int, path: Path, last: list[int]) -> Iterator[tuple[str, int, list[str]]]:
    """Yield (name, parent, words) of each set below a parent; `last` counts them."""
    for name, below in content.items():
        yield str(name), parent, list(_words(below, path))
        last[0] += 1
        if isinstance(below, Mapping):
            yield from _sets(below, last[0], path, last)


def _words(content: Any, path: Path) -> Iterator[str]:
    """Yield every word of a part of the file."""
    if isinstance(content, Mapping):
        for below in content.values():
            yield from _words(below, path)
    elif isinstance(content, list) and all(type(word) in (str, int) and str(word).strip() for word in content):
        yield from map(str, content)
    else:
        raise ConfigError(
            f"{path}: expected names or a list of words, found {content!r}; write words such as no and 007 in quotes"
        )
