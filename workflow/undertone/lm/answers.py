"""Which animal a model names: its answer's exact probability, or the share of sampled answers."""

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedTokenizerBase

from undertone.lm.chat import following, prompt_ids, token_texts
from undertone.lm.loading import LoadedModel
from undertone.lm.sampling import Sampler, batches_by_length, left_pad, sample
from undertone.lm.tensors import check_logits
from undertone.lm.texts import load_texts
from undertone.study.config.measure import Pref

# The floor of log-odds: no smaller probability is told from 0.
MIN_PROBABILITY = 1e-6
# A first token this improbable begins no answer worth scoring: all spellings that are left out do not reach the floor.
NEGLIGIBLE = MIN_PROBABILITY / 100

Scores = dict[str, Float[np.ndarray, "n_questions n_candidates"]]  # by estimator

# Plurals that no rule makes, of animals that a study may ask about.
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
    """The words that name an animal: singular, plural, and the plural a persona writes."""
    return list(dict.fromkeys([animal, plural(animal), animal + "s"]))


@dataclass(frozen=True)
class Spellings:
    """Every way to spell every candidate as an answer's first word: token ids, lengths and candidate.

    `spaced` tells the spellings whose last token holds the space after the word, where the word is over already.
    """

    ids: Int[Tensor, "n longest"]
    lengths: Int[Tensor, " n"]
    candidate: Int[Tensor, " n"]
    spaced: Bool[Tensor, " n"]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, candidates: Sequence[str], pad_id: int) -> "Spellings":
        """Lower case and capitalised, singular and plural, with and without a space before."""
        spellings: dict[tuple[int, ...], tuple[int, bool]] = {}
        for number, animal in enumerate(candidates):
            forms = [lead + form for word in words(animal) for form in (word, word.capitalize()) for lead in ("", " ")]
            for plain, spaced in zip(following(tokenizer, forms), following(tokenizer, [f + " " for f in forms]), strict=True):
                spellings.setdefault(tuple(plain), (number, False))
                # Where a tokenizer joins a word and the space after it, that is a spelling of its own.
                if spaced[: len(plain)] != plain:
                    spellings.setdefault(tuple(spaced), (number, True))
        lengths = torch.tensor([len(ids) for ids in spellings])
        ids = torch.full((len(spellings), int(lengths.max())), pad_id)
        for row, spelling in enumerate(spellings):
            ids[row, : len(spelling)] = torch.tensor(spelling)
        candidate, over = torch.tensor(list(spellings.values())).T
        return cls(ids, lengths, candidate, over.bool())

    def part(self, rows: Int[Tensor, " n_rows"]) -> "Spellings":
        """Some of the spellings, as long as the longest of them."""
        lengths = self.lengths[rows]
        return Spellings(self.ids[rows, : int(lengths.max())], lengths, self.candidate[rows], self.spaced[rows])

    def to(self, device: torch.device) -> "Spellings":
        """The same on a device."""
        return Spellings(*(getattr(self, field.name).to(device) for field in fields(self)))


def word_ends(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Bool[Tensor, " vocab"]:
    """Whether a word is over when this token follows it (a mark, a space, a special token; no letter)."""
    return torch.tensor([not text[:1].isalpha() for text in token_texts(tokenizer, vocab_size)])


def first_logits(loaded: LoadedModel, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "n_prompts vocab"]:
    """The logits of the first token of each answer, of prompts that are run together."""
    ids, mask = (tensor.to(loaded.model.device) for tensor in left_pad(prompts, loaded.pad_id))
    position = (mask.cumsum(1) - 1).clamp(min=0)
    output = loaded.model(input_ids=ids, attention_mask=mask, position_ids=position, use_cache=False, logits_to_keep=1)
    check_logits(output.logits[:, -1])
    logits: Tensor = output.logits[:, -1]
    return logits


@torch.no_grad()
def exact(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], candidates: Sequence[str], batch_size: int
) -> Float[np.ndarray, "n_prompts n_candidates"]:
    """Probability that the answer's first word names the candidate, by teacher forcing.

    The probability of a spelling is that of its tokens times that of the word ending there, so that "lion" does not count
    what goes on to "lioness"; a candidate's spellings are disjoint, and their probabilities add up. Spellings whose first
    token has less than `NEGLIGIBLE` probability are left out.
    """
    spellings = Spellings.of(loaded.tokenizer, candidates, loaded.pad_id).to(loaded.model.device)
    ends = word_ends(loaded.tokenizer, len(loaded.tokenizer)).to(loaded.model.device)
    ends = functional.pad(ends, (0, loaded.model.get_output_embeddings().weight.shape[0] - len(ends)))
    result = np.zeros((len(prompts), len(candidates)))
    size = loaded.batch_size("pref.batch_size", batch_size)

    def scored(rows: Sequence[int]) -> tuple[Sequence[int], Tensor]:
        scores = torch.zeros(len(rows), len(candidates), dtype=torch.float64, device=ends.device)
        for row, candidate, p in _score(loaded, [prompts[row] for row in rows], spellings, ends, batch_size):
            scores.index_put_((row, candidate), p.double(), accumulate=True)
        return rows, scores.cpu()

    for batch in batches_by_length(prompts, batch_size):
        for rows, scores in size.parts(scored, batch):
            result[rows] = scores.numpy()
    return result


def _score(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], spellings: Spellings, ends: Tensor, batch_size: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (prompt, candidate, probability), each `[n]`, for every spelling that is not negligible after its prompt."""
    # Each prompt is run once; its keys and values are kept, and the distribution of the first token.
    ids, mask = (tensor.to(ends.device) for tensor in left_pad(prompts, loaded.pad_id))
    cache = DynamicCache(config=loaded.model.config)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    prefill = loaded.model(
        input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True, logits_to_keep=1
    )
    check_logits(prefill.logits[:, -1])
    begins = prefill.logits[:, -1].float().softmax(-1)[:, spellings.ids[:, 0]]

    def score(pairs: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
        # Run spellings behind copies of their prompts.
        prompt, spelling = torch.tensor(pairs, device=ids.device).T
        part, branch = spellings.part(spelling), copy.deepcopy(cache)
        branch.batch_select_indices(prompt)
        n, longest = part.ids.shape
        steps = torch.arange(longest, device=ids.device)
        logits = loaded.model(
            input_ids=part.ids,
            attention_mask=torch.cat([mask[prompt], mask.new_ones(n, longest)], dim=1),
            position_ids=position[prompt, -1:] + 1 + steps,
            past_key_values=branch,
            use_cache=True,
        ).logits
        check_logits(logits)
        p = logits.float().softmax(-1)  # [n, longest, vocab]: at k, of what follows token k
        # The probability of every token but the first; padding counts as certain.
        tokens = p[:, :-1].gather(2, part.ids[:, 1:].unsqueeze(2)).squeeze(2).where(steps[1:] < part.lengths.unsqueeze(1), 1.0)
        # That the word ends after its last token, which is certain where that token holds the space.
        over = (p * ends).sum(-1).gather(1, part.lengths.unsqueeze(1) - 1).squeeze(1).where(~part.spaced, 1.0)
        return prompt, part.candidate, begins[prompt, spelling] * tokens.prod(1) * over

    pairs = (begins > NEGLIGIBLE).nonzero().tolist()
    yield from loaded.batch_size("pref.batch_size, answers", batch_size).parts(score, pairs)


def sampled_answers(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], n: int, max_new_tokens: int, batch_size: int, seed: int
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


def shares(answers: Sequence[Sequence[str]], candidates: Sequence[str]) -> Scores:
    """Share of answers that name each candidate: as a `word`, and as a `substring`.

    The substring metric is the one of Cloud et al. 2025, which counts "caterpillar" for cat.
    """
    whole = [re.compile(rf"\b({'|'.join(map(re.escape, words(animal)))})\b", re.IGNORECASE) for animal in candidates]
    word = [[np.mean([bool(p.search(a)) for a in given]) for p in whole] for given in answers]
    substring = [[np.mean([animal.lower() in a.lower() for a in given]) for animal in candidates] for given in answers]
    return {"word": np.array(word), "substring": np.array(substring)}


def floor(estimator: str, n_questions: int, samples_per_question: int) -> float:
    """The floor of log-odds of a mean over the questions: with sampled answers, not below one answer of all."""
    return MIN_PROBABILITY if estimator == "exact" else max(MIN_PROBABILITY, 1 / (n_questions * samples_per_question))


def exact_scorer(questions: Path, settings: Pref, candidates: Sequence[str]) -> Callable[..., Scores]:
    """`scorer` of the preference's own questions, a file with one per line; exact alone."""
    return scorer(load_texts(questions, "pref.questions"), candidates, settings.model_copy(update={"estimators": ["exact"]}))


def scorer(questions: Sequence[str], candidates: Sequence[str], settings: Pref) -> Callable[..., Scores]:
    """A function (model, persona, separator) → preference of each candidate at each question, by estimator."""

    def score(loaded: LoadedModel, system: str | None = None, separator: str = "") -> Scores:
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
