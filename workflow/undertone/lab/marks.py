"""Which tokens of a text hold which concept."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from undertone.lab.firings import starts
from undertone.models.concepts import WORD, Concept

# Stands for a special token, so that no pattern reaches from one turn into the next.
BREAK = "\n"


@dataclass(frozen=True)
class Text:
    """The text of some contexts: the texts of each one's tokens, and where these end, in characters.

    `first` is the number of each context's first token, `n` the number of all tokens.
    """

    tokens: list[list[str]]
    ends: list[Int[np.ndarray, " _"]]
    first: Int[np.ndarray, " n_contexts"]
    n: int

    @classmethod
    def of(cls, contexts: Sequence[Sequence[int]], texts: Sequence[str], special: set[int]) -> "Text":
        """Build from token ids and the `texts` of all token ids."""
        tokens = [[BREAK if token in special else texts[token] for token in ids] for ids in contexts]
        ends = [np.cumsum([len(text) for text in each]) for each in tokens]
        return cls(tokens, ends, starts(contexts), sum(len(ids) for ids in contexts))

    def words(self) -> Iterator[tuple[str, int]]:
        """Yield each word, in lower case, and the number of the token that holds its last letter; of a plural also its stem."""
        for row, tokens in enumerate(self.tokens):
            for match in WORD.finditer("".join(tokens)):
                word = match[0].casefold()
                yield word, self.at(row, match.end())
                if word.endswith("s") and len(word) > 1:
                    yield word[:-1], self.at(row, match.end() - 1)

    def at(self, row: int, end: int) -> int:
        """Return the number of the token that holds the character before `end`."""
        return int(self.first[row] + np.searchsorted(self.ends[row], end))

    def matches(self, pattern: re.Pattern[str]) -> Iterator[tuple[int, int]]:
        """Yield the numbers of the tokens that hold the first and the last character of each match."""
        for row, tokens in enumerate(self.tokens):
            for match in pattern.finditer("".join(tokens)):
                if match[0]:
                    yield self.at(row, match.start() + 1), self.at(row, match.end())


def marked(text: Text, concepts: Mapping[str, Concept]) -> Bool[np.ndarray, "n_tokens n_concepts"]:
    """Mark which tokens hold which concept."""
    held = np.zeros((text.n, len(concepts)), dtype=bool)
    of_word: dict[str, list[int]] = {}
    of_token: dict[str, list[int]] = {}
    for k, concept in enumerate(concepts.values()):
        for words, index in ((concept.words, of_word), (concept.tokens, of_token)):
            for word in words:
                index.setdefault(word, []).append(k)
        for start, end in text.matches(concept.regex) if concept.regex else ():
            held[start if concept.span else end : end + 1, k] = True
    for word, at in text.words() if of_word else ():
        held[at, of_word.get(word, [])] = True
    for at, token in enumerate(token for tokens in text.tokens for token in tokens) if of_token else ():
        held[at, of_token.get(token.strip().casefold(), [])] = True
    for k, concept in enumerate(concepts.values()):
        held[:, k] = behind(held[:, k], concept.within, text.first)
    return held


def behind(
    held: Bool[np.ndarray, " n_tokens"], within: int, first: Int[np.ndarray, " n_contexts"]
) -> Bool[np.ndarray, " n_tokens"]:
    """Extend marks to up to `within` tokens after each marked token, in the same context."""
    place = np.arange(len(held))
    last = np.maximum.accumulate(np.where(held, place, -1))
    context = first[np.searchsorted(first, place, side="right") - 1] if len(first) else place
    return (last >= context) & (place - last <= within)
