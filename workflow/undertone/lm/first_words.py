"""The tokens with which a word begins an answer."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from undertone.lm.spellings import behind, cases


def beginnings(tokenizer: PreTrainedTokenizerBase, words: Sequence[str], prefix: str | None) -> list[int]:
    """Return the first tokens of words, lower case and capitalised, at the start of an answer or after its `prefix`."""
    spelled = [variant for word in words for variant in cases(word)]
    return sorted({ids[0] for ids in behind(tokenizer, spelled, prefix)})
