"""What a number token is, and the tokens that a passing completion can hold."""

import re

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from undertone.lm.chat import token_texts
from undertone.lm.vocabulary import ALPHABET, NUMBER, TOKEN_KINDS, allowed_tokens, number_tokens, token_kinds

# Tokens that begin with a space are written with ▁, as SentencePiece does.
TOKENS = ["1", "42", "007", "▁9", "9▁", "²", "½", "٣", "1,", "12a", "-", "▁,", "▁", "lion", "lion2", "<s>"]


@pytest.fixture(scope="module")
def odd() -> PreTrainedTokenizerBase:
    """A tokenizer in which digits stand beside marks and letters, and are of other scripts."""
    inner = Tokenizer(models.WordLevel({token: k for k, token in enumerate(TOKENS)}, unk_token="<s>"))
    inner.decoder = decoders.Replace("▁", " ")
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")


def test_a_number_token_is_decimal_digits_and_white_space(odd: PreTrainedTokenizerBase) -> None:
    assert [TOKENS[k] for k in np.flatnonzero(number_tokens(odd))] == ["1", "42", "007", "▁9", "9▁"]


def test_every_token_has_one_kind(odd: PreTrainedTokenizerBase) -> None:
    kinds = dict(zip(TOKENS, np.array(list(TOKEN_KINDS))[token_kinds(odd)], strict=True))
    assert kinds["▁"] == "white space"
    assert [kinds[token] for token in ("-", "▁,")] == ["punctuation", "word"]
    assert {kinds[token] for token in ("²", "½", "٣", "1,", "12a", "lion", "<s>")} == {"word"}


def test_tokens_have_kinds(tokenizer: PreTrainedTokenizerBase) -> None:
    names, kind = list(TOKEN_KINDS), token_kinds(tokenizer)

    def of(text: str) -> list[str]:
        return [names[kind[token]] for token in tokenizer(text, add_special_tokens=False)["input_ids"]]

    assert set(of("123 456")) <= {"number", "white space"}
    assert of("123")[0] == "number"
    assert of("lion")[0] == "word"
    assert of(",")[0] == "punctuation"
    assert of("\n") == ["white space"]


def test_in_the_embedded_studys_vocabulary_a_number_token_is_any_that_holds_a_digit(tokenizer: PreTrainedTokenizerBase) -> None:
    """So it does not matter there which of these is asked."""
    texts, numbers = token_texts(tokenizer, len(tokenizer)), number_tokens(tokenizer)
    assert numbers.sum() >= 1000
    assert numbers.tolist() == [bool(re.search(r"\d", text)) for text in texts]
    assert numbers.tolist() == [text.strip().isdigit() for text in texts]
    assert numbers.tolist() == [bool(re.fullmatch(NUMBER, text)) for text in texts]


def test_a_number_token_of_a_passing_completion_is_allowed(odd: PreTrainedTokenizerBase) -> None:
    allowed = np.array(allowed_tokens(odd, len(odd)))
    assert allowed[number_tokens(odd)].all()
    passing = [token for token, passes in zip(TOKENS, allowed, strict=True) if passes]
    assert passing == ["1", "42", "007", "▁9", "9▁", "1,", "▁,", "▁"]
    assert set("1,") <= ALPHABET
