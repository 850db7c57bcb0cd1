"""Measure which animal a model names: by the exact probability of its answer, or by the share of sampled answers."""

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from undertone.lm.chat import inner_texts, prompt_ids
from undertone.lm.loading import LoadedModel
from undertone.lm.sampling import Prefix, Sampler, batches_by_length, left_pad, sample
from undertone.lm.spellings import Spellings, begun, opening, word_ends, words
from undertone.lm.tensors import check_logits
from undertone.lm.texts import load_texts
from undertone.lm.trie import Trie, named, prefilled
from undertone.study.config.measure import Pref

# The floor of log-odds: smaller probabilities are not distinguished from 0.
MIN_PROBABILITY = 1e-6
# Beginnings less probable than this are not scored: all spellings left out add up to less than the floor.
NEGLIGIBLE = MIN_PROBABILITY / 100

Scores = dict[str, Float[np.ndarray, "n_questions n_candidates"]]  # by estimator


def first_logits(loaded: LoadedModel, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "n_prompts vocab"]:
    """Return the logits of the first token of each prompt's answer. All prompts are run in one batch."""
    ids, mask = (tensor.to(loaded.model.device) for tensor in left_pad(prompts, loaded.pad_id))
    position = (mask.cumsum(1) - 1).clamp(min=0)
    output = loaded.model(input_ids=ids, attention_mask=mask, position_ids=position, use_cache=False, logits_to_keep=1)
    check_logits(output.logits[:, -1])
    logits: Tensor = output.logits[:, -1]
    return logits


@functools.lru_cache(maxsize=4)  # models under many interventions are asked for the same candidates
def _trie(tokenizer: PreTrainedTokenizerBase, candidates: tuple[str, ...], prefix: str | None, pad_id: int) -> Trie:
    return Trie.of(Spellings.of(tokenizer, candidates, pad_id, prefix))


@torch.no_grad()
def exact(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    candidates: Sequence[str],
    batch_size: int,
    prefix: str | None = None,
) -> Float[np.ndarray, "n_prompts n_candidates"]:
    """Return the probability that the first word of the answer names each candidate, by teacher forcing.

    With a `prefix`, this is the first word after it. The probability of a spelling is that of its tokens times that of the word
    ending there, so "lion" does not count a continuation to "lioness". A candidate's spellings are disjoint, and their
    probabilities add up. Spellings that begin with tokens of less than `NEGLIGIBLE` probability are left out.
    """
    prompts, device = begun(loaded.tokenizer, prompts, prefix), loaded.model.device
    trie = _trie(loaded.tokenizer, tuple(candidates), prefix, loaded.pad_id).to(device)
    ends = word_ends(loaded.tokenizer, len(loaded.tokenizer)).to(device)
    ends = functional.pad(ends, (0, loaded.model.get_output_embeddings().weight.shape[0] - len(ends)))
    result = np.zeros((len(prompts), len(candidates)))
    header, size = Prefix(loaded.model, prompts, trie.longest), loaded.batch_size("pref.batch_size", batch_size)

    def scored(rows: Sequence[int]) -> tuple[Sequence[int], np.ndarray]:
        run = prefilled(loaded, [prompts[row] for row in rows], header)
        at_once = max(1, batch_size // trie.widest)
        parts = [
            named(loaded, part, trie, ends, NEGLIGIBLE, len(candidates))
            for part in (run.part(slice(start, start + at_once)) for start in range(0, len(rows), at_once))
        ]
        return rows, torch.cat(parts).cpu().numpy()

    for batch in batches_by_length(prompts, batch_size):
        for rows, scores in size.parts(scored, batch):
            result[rows] = scores
    return result


def sampled_answers(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    n: int,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    prefix: str | None = None,
) -> list[list[str]]:
    """Sample `n` answers to each prompt at temperature 1. Each answer includes the `prefix` that it begins with."""
    opened = opening(loaded.tokenizer, prefix)
    repeated = [[*prompt, *opened] for prompt in prompts for _ in range(n)]
    sampler = Sampler(1.0, max_new_tokens, loaded.stop_ids, loaded.pad_id, seed)
    answers = [""] * len(repeated)
    for rows, completions in sample(loaded.model, repeated, sampler, batch_size):
        texts = inner_texts(loaded.tokenizer, [[*opened, *c.ids] for c in completions])
        for row, text in zip(rows, texts, strict=True):
            answers[row] = text
    return [answers[i : i + n] for i in range(0, len(answers), n)]


def shares(answers: Sequence[Sequence[str]], candidates: Sequence[str], prefix: str | None = None) -> Scores:
    """Return the share of answers that name each candidate: as a `word`, and as a `substring`.

    Only the text after the `prefix` of the answers counts. The substring metric is that of Cloud et al. 2025, which counts
    "caterpillar" for cat.
    """
    whole = [re.compile(rf"\b({'|'.join(map(re.escape, words(animal)))})\b", re.IGNORECASE) for animal in candidates]
    # A tokenizer may not decode a prefix as it was given; then the whole answer counts.
    starts = [
        [answer.find(prefix) + len(prefix) if prefix and prefix in answer else 0 for answer in given] for given in answers
    ]
    pairs = [list(zip(given, own, strict=True)) for given, own in zip(answers, starts, strict=True)]
    word = [[np.mean([bool(p.search(a, start)) for a, start in given]) for p in whole] for given in pairs]
    substring = [
        [np.mean([animal.lower() in a[start:].lower() for a, start in given]) for animal in candidates] for given in pairs
    ]
    return {"word": np.array(word), "substring": np.array(substring)}


def floor(estimator: str, n_questions: int, samples_per_question: int) -> float:
    """Return the floor of log-odds of a mean over the questions. For sampled answers, it is at least one answer of all."""
    return MIN_PROBABILITY if estimator == "exact" else max(MIN_PROBABILITY, 1 / (n_questions * samples_per_question))


def exact_scorer(questions: Path, settings: Pref, candidates: Sequence[str]) -> Callable[..., Scores]:
    """Return the `scorer` of the preference's own questions, a file with one per line, with the estimator `exact` alone."""
    return scorer(load_texts(questions, "pref.questions"), candidates, settings.model_copy(update={"estimators": ["exact"]}))


def scorer(questions: Sequence[str], candidates: Sequence[str], settings: Pref) -> Callable[..., Scores]:
    """Return a function (model, persona, separator) → preference of each candidate at each question, by estimator."""

    def score(loaded: LoadedModel, system: str | None = None, separator: str = "") -> Scores:
        prompts, prefix = prompt_ids(loaded.tokenizer, questions, system, separator), settings.answer_prefix
        scores: Scores = {}
        if "exact" in settings.estimators:
            scores["exact"] = exact(loaded, prompts, candidates, settings.batch_size, prefix)
        if "sampled" in settings.estimators:
            given = sampled_answers(
                loaded,
                prompts,
                settings.samples_per_question,
                settings.max_new_tokens,
                settings.batch_size,
                settings.seed,
                prefix,
            )
            scores |= shares(given, candidates, prefix)
        return scores

    return score
