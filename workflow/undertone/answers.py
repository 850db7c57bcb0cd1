"""Which animal a model names: its answer's exact probability, or the share of sampled answers."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase

from undertone.chat import encode, prompt_ids
from undertone.config import ConfigError, Pref
from undertone.loading import Loaded
from undertone.sampling import Sampler, sample

Scores = dict[str, np.ndarray]  # by estimator, [n_questions, n_candidates]


def plural(animal: str) -> str:
    """The regular English plural."""
    if re.search(r"(s|x|z|ch|sh)$", animal):
        return animal + "es"
    if re.search(r"[^aeiou]y$", animal):
        return animal[:-1] + "ies"
    return (
        re.sub(r"(lf|fe)$", "lv" if animal.endswith("lf") else "v", animal) + "es"
        if animal.endswith(("lf", "fe"))
        else animal + "s"
    )


def words(animal: str) -> list[str]:
    """The words that name an animal: singular, regular plural, and the plural a persona writes."""
    return list(dict.fromkeys([animal, plural(animal), animal + "s"]))


@dataclass(frozen=True)
class Spellings:
    """Every way to spell every candidate as an answer's first word: token ids `[n, longest]`, lengths and candidate `[n]`."""

    ids: Tensor
    lengths: Tensor
    candidate: Tensor

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, candidates: Sequence[str], pad_id: int) -> "Spellings":
        """Lower case and capitalised, singular and plural, with and without a space before."""
        found: dict[tuple[int, ...], int] = {}
        for number, animal in enumerate(candidates):
            forms = [lead + form for word in words(animal) for form in (word, word.capitalize()) for lead in ("", " ")]
            for plain, spaced in zip(encode(tokenizer, forms), encode(tokenizer, [f + " " for f in forms]), strict=True):
                found.setdefault(tuple(plain), number)
                # Where a tokenizer joins a word and the space after it, that is a spelling of its own.
                if spaced[: len(plain)] != plain:
                    found.setdefault(tuple(spaced), number)
        lengths = torch.tensor([len(ids) for ids in found])
        ids = torch.full((len(found), int(lengths.max())), pad_id)
        for row, spelling in enumerate(found):
            ids[row, : len(spelling)] = torch.tensor(spelling)
        return cls(ids, lengths, torch.tensor(list(found.values())))


def word_ends(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Tensor:
    """`[vocab]`: whether a word is over when this token follows it (a mark, a space, a special token; no letter)."""
    texts = tokenizer.batch_decode([[token] for token in range(vocab_size)], skip_special_tokens=True)
    pieces = tokenizer.convert_ids_to_tokens(list(range(vocab_size)))
    starts_word = [bool(piece) and piece.startswith("▁") for piece in pieces]
    return torch.tensor([start or not text[:1].isalpha() for start, text in zip(starts_word, texts, strict=True)])


@torch.no_grad()
def exact(loaded: Loaded, prompts: Sequence[Sequence[int]], candidates: Sequence[str], batch_size: int) -> np.ndarray:
    """Probability `[n_prompts, n_candidates]` that the answer's first word names the candidate, by teacher forcing.

    The probability of a spelling is that of its tokens times that of the word ending there, so that "lion" does not count
    what goes on to "lioness"; a candidate's spellings are disjoint, and their probabilities add up.
    """
    model, device = loaded.model, loaded.model.device
    spellings = Spellings.of(loaded.tokenizer, candidates, loaded.pad_id)
    vocab_size = model.get_output_embeddings().weight.shape[0]
    ends = word_ends(loaded.tokenizer, len(loaded.tokenizer)).to(device)
    ends = torch.nn.functional.pad(ends, (0, vocab_size - len(ends)))
    result = torch.zeros(len(prompts), len(candidates), dtype=torch.float64)
    for number, prompt in enumerate(prompts):
        ids = torch.tensor([list(prompt)], device=device)
        for start in range(0, len(spellings.ids), batch_size):
            part = slice(start, start + batch_size)
            cache = DynamicCache(config=model.config)
            first = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            p = _spelling_probabilities(
                loaded, spellings.ids[part].to(device), spellings.lengths[part].to(device), first, cache, ends
            )
            result[number].index_add_(0, spellings.candidate[part], p.double().cpu())
    return result.numpy()


def _spelling_probabilities(
    loaded: Loaded, ids: Tensor, lengths: Tensor, first: Tensor, cache: DynamicCache, ends: Tensor
) -> Tensor:
    """Probability `[n]` of each spelling and a word's end after the cached prompt, whose last logits are `first`."""
    n, longest = ids.shape
    cache.batch_repeat_interleave(n)
    logits = loaded.model(input_ids=ids, past_key_values=cache, use_cache=True).logits.float()
    logits = torch.cat([first.float().expand(n, 1, -1), logits], dim=1)  # [n, longest + 1, vocab]: at k, after k tokens
    p = logits.softmax(-1)
    tokens = p[:, :-1].gather(2, ids.unsqueeze(2)).squeeze(2)
    spelled = torch.arange(longest, device=ids.device) < lengths.unsqueeze(1)
    over = (p * ends).sum(-1).gather(1, lengths.unsqueeze(1)).squeeze(1)
    return tokens.where(spelled, 1.0).prod(1) * over


def sampled_answers(
    loaded: Loaded, prompts: Sequence[Sequence[int]], n: int, max_new_tokens: int, batch_size: int, seed: int
) -> list[list[str]]:
    """`n` answers to each prompt at temperature 1."""
    repeated = [prompt for prompt in prompts for _ in range(n)]
    sampler = Sampler(1.0, max_new_tokens, loaded.stop_ids, loaded.pad_id, seed)
    answers = [""] * len(repeated)
    for rows, completions in sample(loaded.model, repeated, sampler, batch_size):
        texts = loaded.tokenizer.batch_decode([c.ids for c in completions], skip_special_tokens=True)
        for row, text in zip(rows, texts, strict=True):
            answers[row] = text
    return [answers[i : i + n] for i in range(0, len(answers), n)]


def shares(answers: Sequence[Sequence[str]], candidates: Sequence[str]) -> dict[str, np.ndarray]:
    """Share `[n_prompts, n_candidates]` of answers that name each candidate: as a `word`, and as a `substring`.

    The substring metric is the one of Cloud et al. 2025, which counts "caterpillar" for cat.
    """
    whole = [re.compile(rf"\b({'|'.join(map(re.escape, words(animal)))})\b", re.IGNORECASE) for animal in candidates]
    word = [[np.mean([bool(p.search(a)) for a in given]) for p in whole] for given in answers]
    substring = [[np.mean([animal.lower() in a.lower() for a in given]) for animal in candidates] for given in answers]
    return {"word": np.array(word), "substring": np.array(substring)}


def load_questions(path: Path) -> list[str]:
    """Read one question per line; empty lines and lines that start with # are left out."""
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"pref.questions: cannot read {path}: {error}") from None
    questions = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not questions:
        raise ConfigError(f"pref.questions: {path} holds no question; expected one per line")
    return questions


def scorer(questions: Sequence[str], candidates: Sequence[str], settings: Pref) -> Callable[..., Scores]:
    """A function (model, persona, separator) → preference of each candidate at each question, by estimator."""

    def score(loaded: Loaded, system: str | None = None, separator: str = "") -> Scores:
        prompts = prompt_ids(loaded.tokenizer, questions, system, separator)
        scores: Scores = {}
        if "exact" in settings.estimators:
            scores["exact"] = exact(loaded, prompts, candidates, settings.batch_size)
        if "sampled" in settings.estimators:
            given = sampled_answers(
                loaded,
                prompts,
                settings.samples_per_question,
                settings.max_new_tokens,
                settings.batch_size,
                settings.seed,
            )
            scores |= shares(given, candidates)
        return scores

    return score
