"""The kinds of a tokenizer's tokens: numbers, other kinds of text, and those that a passing completion can contain."""

import functools
import re

import numpy as np
from jaxtyping import Bool, Int
from transformers import PreTrainedTokenizerBase

from undertone.lm.chat import token_texts

# The text of a number token: decimal digits and nothing else, except for white space around them.
NUMBER = r"\s*[0-9]+\s*"
# The kinds of tokens by their text; the first pattern that matches counts.
TOKEN_KINDS = {"number": NUMBER, "white space": r"\s+", "punctuation": r"[^\w\s]+\s*", "word": r".*"}
# No filter accepts a text with any other character, so a row ends as soon as it writes one.
ALPHABET = frozenset("0123456789,;.[]()" + " \t\n\r\f\v")


@functools.lru_cache(maxsize=1)  # the metrics of a model ask once for each of its personas
def token_kinds(tokenizer: PreTrainedTokenizerBase) -> Int[np.ndarray, " vocab"]:
    """Return the index in `TOKEN_KINDS` of each token id's kind. A special token counts as a word."""
    patterns = [re.compile(pattern, re.DOTALL) for pattern in TOKEN_KINDS.values()]
    texts = token_texts(tokenizer, len(tokenizer))
    return np.array([next(i for i, pattern in enumerate(patterns) if pattern.fullmatch(text)) for text in texts])


def number_tokens(tokenizer: PreTrainedTokenizerBase) -> Bool[np.ndarray, " vocab"]:
    """Return whether each token id is a number token. A token that joins digits with a mark or a letter is not."""
    return token_kinds(tokenizer) == list(TOKEN_KINDS).index("number")


@functools.lru_cache(maxsize=1)  # the metrics of a model ask once for each of its personas
def allowed_tokens(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> tuple[bool, ...]:
    """Return whether each token id's text has only characters that a passing completion can contain.

    Special tokens are never allowed.
    """
    return tuple(bool(text) and set(text) <= ALPHABET for text in token_texts(tokenizer, vocab_size))
