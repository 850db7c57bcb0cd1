"""The tokens at which two models can be compared: those that end at the same character of the same text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from transformers import PreTrainedTokenizerBase

from undertone.lab.context_table import read_contexts
from undertone.lab.retokenized import same_tokens, whole_texts
from undertone.lm.chat import special_ids
from undertone.lm.loading import folder_of, read_tokenizer
from undertone.runtime.errors import ConfigError

# If less than this share of the tokens end at the same place, only a part of the text would be compared.
LEAST_ALIGNED = 0.5
# Each half of the contexts is shifted against itself.
LEAST_CONTEXTS = 4
Contexts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Aligned:
    """Text tokens that end at the same place for both models, in the order of the contexts.

    `contexts` are the contexts that were read, in the token ids of each side. A token is in context `row`, at position `at[0]`
    for the first model and `at[1]` for the second. `word` numbers the pairs of token ids: equal numbers are equal tokens on
    both sides. `share` is the share of the first model's text tokens that are aligned.
    """

    contexts: tuple[Contexts, Contexts]
    row: Int[np.ndarray, " n"]
    at: tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]
    word: Int[np.ndarray, " n"]
    share: float

    def only(self, keep: Bool[np.ndarray, " n"]) -> "Aligned":
        """Return the tokens that `keep` marks."""
        return Aligned(self.contexts, self.row[keep], (self.at[0][keep], self.at[1][keep]), self.word[keep], self.share)

    def first(self, tokens: int) -> "Aligned":
        """Return the first contexts, as many as hold no more than `tokens` of the tokens."""
        if len(self.row) <= tokens:
            return self
        n = int(self.row[tokens])
        return replace(self.only(self.row < n), contexts=(self.contexts[0][:n], self.contexts[1][:n]))


def read_aligned(models: Sequence[Path], texts: Sequence[Path], tokens: int) -> Aligned:
    """Read contexts of a text, in each of two models' tokens, until they hold `tokens` aligned tokens.

    Raises ConfigError if there are too few contexts to be halved and shifted against one another.
    """
    tokenizers = [read_tokenizer(folder, str(folder)) for folder in map(folder_of, models)]
    aligned = align(tokenizers, [read_contexts(text) for text in texts], tokens)
    if (n := len(aligned.contexts[0])) < LEAST_CONTEXTS:
        raise ConfigError(
            f"{len(aligned.row):,} tokens of text stand in {n} contexts, expected {LEAST_CONTEXTS} or more: set matches.tokens "
            f"(or layers.read) to at least {LEAST_CONTEXTS * -(-len(aligned.row) // n):,}"
        )
    return aligned


def align(tokenizers: Sequence[PreTrainedTokenizerBase], contexts: Sequence[Contexts], tokens: int) -> Aligned:
    """Return the text tokens that end at the same place for both tokenizers, without special tokens.

    Raises ConfigError if they are fewer than half of the first tokenizer's.
    """
    special = [np.array(sorted(special_ids(tokenizer))) for tokenizer in tokenizers]
    ends = places(tokenizers, contexts)
    parts: list[Int[np.ndarray, "4 n"]] = []
    n = n_text = row = 0
    while n < tokens and row < len(contexts[0]):
        here = [np.asarray(side[row], dtype=np.int64) for side in contexts]
        text = [np.flatnonzero(~np.isin(ids, codes)) for ids, codes in zip(here, special, strict=True)]
        _, first, second = np.intersect1d(ends[0][row][text[0]], ends[1][row][text[1]], return_indices=True)
        at = [text[0][first], text[1][second]]
        parts.append(np.stack([*at, here[0][at[0]], here[1][at[1]]]))
        n, n_text, row = n + len(first), n_text + len(text[0]), row + 1
    if n < LEAST_ALIGNED * n_text:
        raise ConfigError(
            f"{n / n_text:.0%} of the tokens end where one of the other model does, expected {LEAST_ALIGNED:.0%}: the two "
            "tokenizers cut text too differently to be compared"
        )
    at_a, at_b, id_a, id_b = np.concatenate(parts, axis=1)
    _, word = np.unique(id_a * 2**32 + id_b, return_inverse=True)
    rows = np.repeat(np.arange(row), [part.shape[1] for part in parts])
    return Aligned((contexts[0][:row], contexts[1][:row]), rows, (at_a, at_b), word, n / n_text)


def places(
    tokenizers: Sequence[PreTrainedTokenizerBase], contexts: Sequence[Contexts]
) -> list[list[Int[np.ndarray, " n_tokens"]]]:
    """Return where each token ends, by side and context: the character, or the token's number if the tokenizers agree.

    Some token ids are not what the tokenizer makes of their own text. The tokens of such a context end nowhere and match none.
    """
    if same_tokens(*tokenizers):
        numbers = [np.arange(len(ids)) for ids in contexts[0]]
        return [numbers, numbers]
    sides = []
    for number, (tokenizer, side) in enumerate(zip(tokenizers, contexts, strict=True)):
        again = tokenizer(whole_texts(tokenizer, side), add_special_tokens=False, return_offsets_mapping=True)
        cut = zip(side, again["input_ids"], again["offset_mapping"], strict=True)
        sides.append(
            [
                np.array([end for _, end in offsets], dtype=np.int64)
                if list(ids) == new
                else np.full(len(ids), -1 - number, dtype=np.int64)
                for ids, new, offsets in cut
            ]
        )
    return sides
