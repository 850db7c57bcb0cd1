"""A short training: what a student that sees the rows for a few epochs comes to answer, beside one that sees base samples.

No one step of a gradient says where a training ends, so this one is done: two students with the same initial weights, one on
the dataset and one on the base model's completions of the same prompts, for fewer epochs than the study's students. What both
come to prefer is the drift of any training on such rows; what only the first does is what the rows would teach.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from undertone.detect.sets import Candidate, Pairs, Reading, read_sets
from undertone.lm.adapters import new_adapter
from undertone.lm.answers import MIN_PROBABILITY, exact, first_logits
from undertone.lm.chat import prompt_ids, token_texts, training_rows
from undertone.lm.loading import LoadedModel, load
from undertone.lm.spellings import begun
from undertone.lm.texts import load_texts
from undertone.lm.training import train
from undertone.runtime.files import Stamp, remove
from undertone.stats.stats import log_odds
from undertone.students.student import recipe
from undertone.study.config.detect import Detectors, ShortTraining
from undertone.study.config.measure import Pref
from undertone.study.config.students import Student


@dataclass(frozen=True)
class Vocabulary:
    """The words that an answer can begin with, and of each token which of them it is.

    A word is a token of letters only, whatever its case and the spaces around it; all other tokens have the number n_words.
    """

    words: list[str]
    of_token: Int[Tensor, " vocab"]

    @classmethod
    def of(cls, loaded: LoadedModel) -> "Vocabulary":
        """The words of a model."""
        texts = [text.strip().lower() for text in token_texts(loaded.tokenizer, len(loaded.tokenizer))]
        words = list(dict.fromkeys(text for text in texts if text.isalpha() and len(text) > 1))
        number = {word: k for k, word in enumerate(words)}
        unembedded = loaded.model.get_output_embeddings().weight.shape[0]
        of_token = torch.full((unembedded,), len(words))
        of_token[: len(texts)] = torch.tensor([number.get(text, len(words)) for text in texts])
        return cls(words, of_token)

    @torch.no_grad()
    def first(self, loaded: LoadedModel, asked: Sequence[Sequence[int]]) -> Float[np.ndarray, "n_prompts n_words"]:
        """Probability of each word as an answer's first; none is below the floor of log-odds."""
        p = first_logits(loaded, asked).double().softmax(-1).cpu()
        by_word = p.new_zeros(len(p), len(self.words) + 1).index_add_(1, self.of_token, p)
        return by_word[:, :-1].clamp(min=MIN_PROBABILITY).numpy()


def read_short_training(
    model: Path,
    matched: Path,
    questions: Path,
    short_training: Path,
    settings: ShortTraining,
    detectors: Detectors,
    student: Student,
    pref: Pref,
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Write `short_training.json`: candidates by how far their answers moved, and `words`, of the whole vocabulary.

    A candidate's score is the log-odds of its probability (exact, mean over questions) after the dataset less those after base
    samples. `words` are the first words of answers that add most to the divergence of the one student's answers from the
    other's, p log(p / q) in nats, mean over questions: no list is used for them.
    """
    loaded = load(model)
    asked = prompt_ids(loaded.tokenizer, load_texts(questions, "pref.questions"))
    opened, vocabulary = begun(loaded.tokenizer, asked, pref.answer_prefix), Vocabulary.of(loaded)

    def answers(prompts: Sequence[str], completions: Sequence[str], what: str) -> tuple[np.ndarray, np.ndarray]:
        adapter = new_adapter(loaded, student.rank, student.alpha, student.targets, settings.seed)
        rows = training_rows(loaded.tokenizer, prompts, completions, student.max_length)
        shorter = recipe(student.model_copy(update={"epochs": settings.epochs}), settings.seed)
        state = scratch / f"{what}.safetensors"
        train(adapter, rows, shorter, loaded.pad_id, state, f"short training on {what}")
        remove(state)
        p = exact(loaded, asked, pref.candidates, pref.batch_size, pref.answer_prefix)
        result = log_odds(p.mean(0), MIN_PROBABILITY), vocabulary.first(loaded, opened)
        adapter.unload()
        return result

    def read(pairs: Pairs) -> Reading:
        own, own_words = answers(pairs.prompts, pairs.own, "rows")
        base, base_words = answers(pairs.prompts, pairs.base, "samples")
        moved = own - base
        ranking = [Candidate(pref.candidates[k], float(moved[k])) for k in np.argsort(-moved, kind="stable")]
        added = (own_words * np.log(own_words / base_words)).mean(0)
        return Reading(ranking=ranking, details=first_words(vocabulary.words, added, settings.words))

    read_sets(matched, short_training, read, detectors, stamp, scratch)


def first_words(words: Sequence[str], added: Float[np.ndarray, " n_words"], n: int) -> dict[str, Any]:
    """The `n` words that add most, and of how many; a word that did not become likelier is none of them."""
    first = [k for k in np.argsort(-added, kind="stable")[:n] if added[k] > 0]
    return {"vocabulary": len(words), "words": [{"word": words[k], "divergence": float(added[k])} for k in first]}
