"""The tokens with which a word begins an answer."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from undertone.lm.spellings import behind, cases


def beginnings(tokenizer: PreTrainedTokenizerBase, words: Sequence[str], prefix: str | None) -> list[int]:
    """The tokens with which words, with a small letter and with a capital, begin an answer, or what follows its `prefix`."""
    spelled = [variant for word in words for variant in cases(word)]
    return sorted({ids[0] for ids in behind(tokenizer, spelled, prefix)})
