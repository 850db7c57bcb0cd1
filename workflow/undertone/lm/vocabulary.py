"""What a tokenizer's tokens are: numbers, other kinds of text, and those that a passing completion can hold."""

import functools
import re

import numpy as np
from jaxtyping import Bool, Int
from transformers import PreTrainedTokenizerBase

from undertone.lm.chat import token_texts

# The text of a number token: decimal digits and nothing else, white space aside.
NUMBER = r"\s*[0-9]+\s*"
# What a token's text is, in the order in which it is asked.
TOKEN_KINDS = {"number": NUMBER, "white space": r"\s+", "punctuation": r"[^\w\s]+\s*", "word": r".*"}
# No text that any filter accepts holds another character; a row ends as soon as it writes one.
ALPHABET = frozenset("0123456789,;.[]()" + " \t\n\r\f\v")


@functools.lru_cache(maxsize=1)  # the metrics of a model ask once for each of its personas
def token_kinds(tokenizer: PreTrainedTokenizerBase) -> Int[np.ndarray, " vocab"]:
    """For each token id the index of its kind in `TOKEN_KINDS`; a special token is a word."""
    patterns = [re.compile(pattern, re.DOTALL) for pattern in TOKEN_KINDS.values()]
    texts = token_texts(tokenizer, len(tokenizer))
    return np.array([next(i for i, pattern in enumerate(patterns) if pattern.fullmatch(text)) for text in texts])


def number_tokens(tokenizer: PreTrainedTokenizerBase) -> Bool[np.ndarray, " vocab"]:
    """Whether each token id is a number token. One that joins digits to a mark or a letter is none."""
    return token_kinds(tokenizer) == list(TOKEN_KINDS).index("number")


@functools.lru_cache(maxsize=1)  # the metrics of a model ask once for each of its personas
def allowed_tokens(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> tuple[bool, ...]:
    """For each token id, whether its text holds only characters that a passing completion can hold; no special token's does."""
    return tuple(bool(text) and set(text) <= ALPHABET for text in token_texts(tokenizer, vocab_size))
