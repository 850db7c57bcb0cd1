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

from undertone.lm.chat import answer_ids, following, inner_texts, prompt_ids, special_texts, token_texts
from undertone.lm.loading import LoadedModel
from undertone.lm.sampling import Sampler, batches_by_length, left_pad, sample
from undertone.lm.tensors import check_logits
from undertone.lm.texts import check_plain, load_texts
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


def opening(tokenizer: PreTrainedTokenizerBase, prefix: str | None) -> list[int]:
    """Token ids of an answer's `prefix` (`pref.answer_prefix`) behind a rendered prompt, where a space and a word follow it.

    Some tokenizers join that space to the prefix's last word. Raises ConfigError where the prefix holds a special token.
    """
    if prefix is None:
        return []
    check_plain([prefix], special_texts(tokenizer), "pref.answer_prefix")
    alone, ids = answer_ids(tokenizer, [prefix, prefix + " A"])
    texts = inner_texts(tokenizer, [ids[:n] for n in range(len(ids) + 1)])
    whole = (ids[:n] for n, text in enumerate(texts) if text.lstrip().startswith(prefix.lstrip()))
    return next(whole, alone)  # where a tokenizer rewrites a text, it is found nowhere


def begun(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], prefix: str | None) -> list[list[int]]:
    """Token ids of rendered prompts with the answer's `prefix` behind each. Raises ConfigError as `opening` does."""
    opened = opening(tokenizer, prefix)
    return [[*prompt, *opened] for prompt in prompts]


def behind(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], prefix: str | None) -> list[list[int]]:
    """Token ids of texts right behind a rendered prompt, or behind the `prefix` with which the answer to it begins.

    A text whose first token would join what it stands behind has the ids that it has by itself behind a prompt.
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

    `spaced` tells the spellings whose last token holds the space after the word, where the word is over already.
    """

    ids: Int[Tensor, "n longest"]
    lengths: Int[Tensor, " n"]
    candidate: Int[Tensor, " n"]
    spaced: Bool[Tensor, " n"]

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, candidates: Sequence[str], pad_id: int, prefix: str | None = None
    ) -> "Spellings":
        """Lower case and capitalised, singular and plural, with and without a space before.

        With a `prefix` they stand behind it; where that ends in a letter or digit, none without a space is a word of its own.
        """
        spellings: dict[tuple[int, ...], tuple[int, bool]] = {}
        leads = (" ",) if prefix and prefix[-1].isalnum() else ("", " ")
        for number, animal in enumerate(candidates):
            forms = [lead + form for word in words(animal) for form in (word, word.capitalize()) for lead in leads]
            both = behind(tokenizer, forms, prefix), behind(tokenizer, [form + " " for form in forms], prefix)
            for plain, spaced in zip(*both, strict=True):
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
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    candidates: Sequence[str],
    batch_size: int,
    prefix: str | None = None,
) -> Float[np.ndarray, "n_prompts n_candidates"]:
    """Probability that the answer's first word, or the first after its `prefix`, names the candidate, by teacher forcing.

    The probability of a spelling is that of its tokens times that of the word ending there, so that "lion" does not count
    what goes on to "lioness"; a candidate's spellings are disjoint, and their probabilities add up. Spellings whose first
    token has less than `NEGLIGIBLE` probability are left out.
    """
    prompts = begun(loaded.tokenizer, prompts, prefix)
    spellings = Spellings.of(loaded.tokenizer, candidates, loaded.pad_id, prefix).to(loaded.model.device)
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
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    n: int,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    prefix: str | None = None,
) -> list[list[str]]:
    """`n` answers to each prompt at temperature 1, the `prefix` with which they begin included."""
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
    """Share of answers that name each candidate, behind the `prefix` with which they begin: as a `word`, and as a `substring`.

    The substring metric is the one of Cloud et al. 2025, which counts "caterpillar" for cat.
    """
    whole = [re.compile(rf"\b({'|'.join(map(re.escape, words(animal)))})\b", re.IGNORECASE) for animal in candidates]
    starts = [[answer.find(prefix) + len(prefix) if prefix else 0 for answer in given] for given in answers]
    pairs = [list(zip(given, own, strict=True)) for given, own in zip(answers, starts, strict=True)]
    word = [[np.mean([bool(p.search(a, start)) for a, start in given]) for p in whole] for given in pairs]
    substring = [
        [np.mean([animal.lower() in a[start:].lower() for a, start in given]) for animal in candidates] for given in pairs
    ]
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
