"""Detectors that train twice, on a dataset's rows and on base samples, and compare the answers.

Changes that both show are the drift of any training on such rows; changes that only the first shows are what the rows teach.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import compress
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from undertone.detect.pairs import Swapped
from undertone.detect.sets import Candidate, Pairs, Reading, read_sets
from undertone.lm.answers import MIN_PROBABILITY, exact, first_logits
from undertone.lm.chat import Row, token_texts
from undertone.lm.loading import LoadedModel
from undertone.lm.spellings import begun
from undertone.lm.training import Recipe, label_losses, train
from undertone.runtime.files import Stamp, remove
from undertone.stats.stats import log_odds
from undertone.study.config.detect import Detectors, SoftPrompt, TrainedBias
from undertone.study.config.measure import Pref


@dataclass(frozen=True)
class Vocabulary:
    """The words that an answer can begin with, and the number of each token's word.

    A word is a token of two or more letters and nothing else, whatever its case and the spaces around it. All other tokens have
    the number n_words.
    """

    words: list[str]
    of_token: Int[Tensor, " vocab"]

    @classmethod
    def of(cls, loaded: LoadedModel) -> "Vocabulary":
        """Collect the words of a model's vocabulary."""
        texts = [text.strip().lower() for text in token_texts(loaded.tokenizer, len(loaded.tokenizer))]
        words = list(dict.fromkeys(text for text in texts if text.isalpha() and len(text) > 1))
        number = {word: k for k, word in enumerate(words)}
        unembedded = loaded.model.get_output_embeddings().weight.shape[0]
        of_token = torch.full((unembedded,), len(words))
        of_token[: len(texts)] = torch.tensor([number.get(text, len(words)) for text in texts])
        return cls(words, of_token)

    @torch.no_grad()
    def first(self, loaded: LoadedModel, asked: Sequence[Sequence[int]]) -> Float[np.ndarray, "n_prompts n_words"]:
        """Return the probability of each word as an answer's first, clipped from below at the floor of log-odds."""
        p = first_logits(loaded, asked).double().softmax(-1).cpu()
        by_word = p.new_zeros(len(p), len(self.words) + 1).index_add_(1, self.of_token, p)
        return by_word[:, :-1].clamp(min=MIN_PROBABILITY).numpy()


@dataclass(frozen=True)
class Trainable:
    """A trainable addition to frozen weights, and how to train it.

    `fresh` opens a context in which the base model has a new one, and yields what `lm.training.train` trains. `rows` renders
    prompts and completions; `asked` are the questions as token ids. `tested` says whether presence is tested, for which the
    addition is trained once more on half of the prompts.
    """

    name: str
    loaded: LoadedModel
    recipe: Recipe
    fresh: Callable[[], AbstractContextManager[nn.Module]]
    rows: Callable[[Sequence[str], Sequence[str]], list[Row]]
    asked: Sequence[Sequence[int]]
    n_words: int
    tested: bool

    @contextmanager
    def trained(self, prompts: Sequence[str], completions: Sequence[str], what: str, scratch: Path) -> Iterator[nn.Module]:
        """Give the base model, inside the context, what was trained on these rows; `scratch` keeps unfinished training."""
        state = scratch / f"{what.replace(' ', '-')}.safetensors"
        with self.fresh() as model:
            rows = self.rows(prompts, completions)
            train(model, rows, self.recipe, self.loaded.pad_id, state, f"{self.name.replace('_', ' ')} on {what}")
            remove(state)
            yield model


@dataclass(frozen=True)
class Reader:
    """Reads sets of pairs by training on each side of the pairs."""

    trainable: Trainable
    pref: Pref
    settings: Detectors
    scratch: Path

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words of the model."""
        return Vocabulary.of(self.trainable.loaded)

    def read(self, pairs: Pairs) -> Reading:
        """Rank candidates by how far their answers moved, list `words` of the whole vocabulary, and test presence if asked."""
        own, own_words = self.answers(pairs.prompts, pairs.own, "rows")
        base, base_words = self.answers(pairs.prompts, pairs.base, "samples")
        moved = own - base
        candidates = self.pref.candidates
        ranking = [Candidate(candidates[k], float(moved[k])) for k in np.argsort(-moved, kind="stable")]
        added = (own_words * np.log(own_words / base_words)).mean(0)
        details = first_words(self.vocabulary.words, added, self.trainable.n_words)
        return Reading(self.presence(pairs) if self.trainable.tested else None, ranking, details)

    def answers(
        self, prompts: Sequence[str], completions: Sequence[str], what: str
    ) -> tuple[Float[np.ndarray, " n_candidates"], Float[np.ndarray, "n_questions n_words"]]:
        """Return each candidate's log-odds after training on rows, and each word's probability as an answer's first."""
        loaded, pref, asked = self.trainable.loaded, self.pref, self.trainable.asked
        with self.trainable.trained(prompts, completions, what, self.scratch):
            p = exact(loaded, asked, pref.candidates, pref.batch_size, pref.answer_prefix)
            words = self.vocabulary.first(loaded, begun(loaded.tokenizer, asked, pref.answer_prefix))
        return log_odds(p.mean(0), MIN_PROBABILITY), words

    def presence(self, pairs: Pairs) -> Swapped:
        """Test whether the dataset's rows are base samples, on the half of the prompts that nothing was trained on.

        The statistic is the mean over pairs of log p(own) − log p(base), in nats, after training on the first half of the
        dataset, minus the same after training on that half's base samples. Training never sees these pairs. If the base model
        wrote both completions of a pair, exchanging them changes only the sign of the difference, so random signs give an exact
        null.
        """
        first = first_half(pairs, self.settings.seed)
        prompts = list(compress(pairs.prompts, first))
        gained = np.zeros(int((~first).sum()))
        for side, texts, sign in (("rows", pairs.own, 1), ("samples", pairs.base, -1)):
            half = list(compress(texts, first))
            with self.trainable.trained(prompts, half, f"half of the {side}", self.scratch) as model:
                own, base = (self.log_p(model, pairs.prompts, each, ~first) for each in (pairs.own, pairs.base))
            gained += sign * (own - base)
        return Swapped.of_mean(gained, self.settings.permutations, self.settings.seed)

    @torch.no_grad()
    def log_p(
        self, model: nn.Module, prompts: Sequence[str], completions: Sequence[str], of: Bool[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n_of"]:
        """Return the log-probability, in nats, of the completions that `of` selects."""
        rows = self.trainable.rows(list(compress(prompts, of)), list(compress(completions, of)))
        order = np.argsort([len(row.ids) for row in rows], kind="stable")
        batches = self.trainable.loaded.read(partial(label_losses, model), [rows[k] for k in order], self.settings.batch_size)
        losses = torch.cat(list(batches)).double().cpu().numpy()
        lengths = [len(rows[k].ids) - rows[k].start for k in order]
        sums = np.empty(len(rows))
        sums[order] = -np.add.reduceat(losses, [0, *np.cumsum(lengths)[:-1]])
        return sums


def read_trained(
    matched: Path, result: Path, trainable: Trainable, pref: Pref, detectors: Detectors, stamp: Stamp, scratch: Path
) -> None:
    """Write the readings of every set of a `matched.parquet`.

    A candidate's score is the log-odds of its probability (exact, mean over questions) after training on the dataset, minus the
    same after training on base samples. `words` are the first words of answers that contribute most to the KL divergence of the
    former model's answers from the latter's, p log(p / q) in nats, mean over questions. They need no list of candidates.
    """
    read_sets(matched, result, Reader(trainable, pref, detectors, scratch).read, detectors, stamp, scratch)


def adam(settings: TrainedBias | SoftPrompt) -> Recipe:
    """Return a recipe of plain Adam: its learning rate decays linearly to 0; no warmup, weight decay or gradient clipping."""
    shared = {"schedule": "linear", "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": inf}
    size, epochs = settings.batch_size, settings.epochs
    return Recipe(epochs=epochs, batch_size=size, micro_batch_size=size, lr=settings.lr, seed=settings.seed, **shared)  # type: ignore[arg-type]


def first_half(pairs: Pairs, seed: int) -> Bool[np.ndarray, " n"]:
    """Select the pairs of a random half of the prompts; if there is only one prompt, a random half of the pairs."""
    groups = pairs.groups if pairs.groups.max() else np.arange(len(pairs.own))
    n = int(groups.max()) + 1
    chosen: np.ndarray = (np.random.default_rng(seed).permutation(n) < n // 2)[groups]
    return chosen


def first_words(words: Sequence[str], added: Float[np.ndarray, " n_words"], n: int) -> dict[str, Any]:
    """Return the `n` words that add most, if they became likelier, and the size of the vocabulary."""
    first = [k for k in np.argsort(-added, kind="stable")[:n] if added[k] > 0]
    return {"vocabulary": len(words), "words": [{"word": words[k], "divergence": float(added[k])} for k in first]}
