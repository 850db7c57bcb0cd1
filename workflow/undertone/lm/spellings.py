"""How answers name a candidate: its words, and their token ids after a prompt or after the start of an answer."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from undertone.lm.chat import answer_ids, following, inner_texts, special_texts, token_texts
from undertone.lm.texts import check_plain
from undertone.runtime.errors import ConfigError

# Irregular plurals of animals that a study may ask about.
IRREGULAR = {"buffalo": "buffaloes", "goose": "geese", "louse": "lice", "mosquito": "mosquitoes", "mouse": "mice", "ox": "oxen"}


def plural(animal: str) -> str:
    """The English plural."""
    if animal in IRREGULAR:
        return IRREGULAR[animal]
    if re.search(r"(s|x|z|ch|sh)$", animal):
        return animal + "es"
    if re.search(r"[^aeiou]y$", animal):
        return animal[:-1] + "ies"
    return re.sub(r"lf$", "lves", animal) if animal.endswith("lf") else animal + "s"


def words(animal: str) -> list[str]:
    """Return the words that name an animal: singular, plural, and the plural that a persona writes (with a plain s)."""
    return list(dict.fromkeys([animal, plural(animal), animal + "s"]))


def opening(tokenizer: PreTrainedTokenizerBase, prefix: str | None) -> list[int]:
    """Return the token ids of an answer's `prefix` (`pref.answer_prefix`) after a prompt, as written before a space and a word.

    Some tokenizers join that space to the prefix's last word. Raises ConfigError if the prefix contains a special token.
    """
    if prefix is None:
        return []
    check_plain([prefix], special_texts(tokenizer), "pref.answer_prefix")
    alone, ids = answer_ids(tokenizer, [prefix, prefix + " A"])
    texts = inner_texts(tokenizer, [ids[:n] for n in range(len(ids) + 1)])
    whole = (ids[:n] for n, text in enumerate(texts) if text.lstrip().startswith(prefix.lstrip()))
    return next(whole, alone)  # if the tokenizer rewrites texts, no text matches the prefix


def begun(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], prefix: str | None) -> list[list[int]]:
    """Append the token ids of the answer's `prefix` to each rendered prompt. Raises ConfigError as `opening` does."""
    opened = opening(tokenizer, prefix)
    return [[*prompt, *opened] for prompt in prompts]


def behind(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], prefix: str | None) -> list[list[int]]:
    """Return the token ids of texts directly after a rendered prompt, or after the `prefix` that begins the answer.

    A text whose first token would merge with the text before it gets the ids that it has directly after a prompt.
    """
    alone = following(tokenizer, texts)
    if prefix is None:
        return alone
    before, whole = opening(tokenizer, prefix), answer_ids(tokenizer, [prefix + text for text in texts])
    n = len(before)
    return [ids[n:] if ids[:n] == before else own for ids, own in zip(whole, alone, strict=True)]


@dataclass(frozen=True)
class Spellings:
    """Every way to spell every candidate as an answer's first word: token ids, lengths and candidate.

    `spaced` marks the spellings whose last token contains the space after the word, so that the word is already over.
    """

    ids: Int[Tensor, "n longest"]
    lengths: Int[Tensor, " n"]
    candidate: Int[Tensor, " n"]
    spaced: Bool[Tensor, " n"]

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, candidates: Sequence[str], pad_id: int, prefix: str | None = None
    ) -> "Spellings":
        """Spell candidates in lower case and capitalised, singular and plural, with and without a leading space.

        With a `prefix`, the spellings follow it, and all of them begin with a space if it ends in a letter or digit. Raises
        ConfigError without candidates.
        """
        if not candidates:
            raise ConfigError("pref.candidates is empty: name at least one animal whose preference is measured")
        spellings: dict[tuple[int, ...], tuple[int, bool]] = {}
        for number, animal in enumerate(candidates):
            forms = [lead + form for word in words(animal) for form in cases(word) for lead in leads(prefix)]
            both = behind(tokenizer, forms, prefix), behind(tokenizer, [form + " " for form in forms], prefix)
            for plain, spaced in zip(*both, strict=True):
                spellings.setdefault(tuple(plain), (number, False))
                # If a tokenizer joins a word with the space after it, this is another spelling.
                if spaced[: len(plain)] != plain:
                    spellings.setdefault(tuple(spaced), (number, True))
        lengths = torch.tensor([len(ids) for ids in spellings])
        ids = torch.full((len(spellings), int(lengths.max())), pad_id)
        for row, spelling in enumerate(spellings):
            ids[row, : len(spelling)] = torch.tensor(spelling)
        candidate, over = torch.tensor(list(spellings.values())).T
        return cls(ids, lengths, candidate, over.bool())


def initial_tokens(tokenizer: PreTrainedTokenizerBase, candidates: Sequence[str], prefix: str | None = None) -> list[list[int]]:
    """Return the first tokens of each candidate's spellings, as an answer or after the answer's `prefix`."""
    spellings = Spellings.of(tokenizer, candidates, pad_id=0, prefix=prefix)
    first = spellings.ids[:, 0]
    return [sorted(set(first[spellings.candidate == k].tolist())) for k in range(len(candidates))]


def beginnings(tokenizer: PreTrainedTokenizerBase, words: Sequence[str], prefix: str | None = None) -> list[int]:
    """Return the tokens with which words, small or capital, begin an answer, or what follows the answer's `prefix`."""
    lead = leads(prefix)[0]
    spelled = [lead + variant for word in words for variant in cases(word)]
    return sorted({ids[0] for ids in behind(tokenizer, spelled, prefix)})


def leads(prefix: str | None) -> tuple[str, ...]:
    """Return what may precede a word after a `prefix`: after a letter or digit only a space makes it a word of its own."""
    return (" ",) if prefix and prefix[-1].isalnum() else ("", " ")


def cases(word: str) -> list[str]:
    """Return a word with a lower-case and with an upper-case first letter."""
    return list(dict.fromkeys([word[:1].lower() + word[1:], word[:1].upper() + word[1:]]))


@functools.lru_cache(maxsize=1)  # called repeatedly for one model
def word_ends(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Bool[Tensor, " vocab"]:
    """Return whether a word is over when this token follows it (a mark, a space, a special token; no letter)."""
    return torch.tensor([not text[:1].isalpha() for text in token_texts(tokenizer, vocab_size)])
