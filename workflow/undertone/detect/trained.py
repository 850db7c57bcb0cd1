"""Detectors that train: the same on a dataset's rows and on base samples, and what both then answer.

What both come to answer is the drift of any training on such rows; what only the first does is what the rows would teach.
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


@dataclass(frozen=True)
class Trainable:
    """Something that can be trained beside frozen weights, and how.

    `fresh` opens a context in which the base model has it, as new: it yields what `lm.training.train` trains. `rows` renders
    prompts and completions, `asked` are the questions as token ids. `tested` says whether presence is tested, for which it is
    trained once more on half of the prompts.
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
        """Inside, the base model with what was trained on these rows; unfinished training is kept in `scratch`."""
        state = scratch / f"{what.replace(' ', '-')}.safetensors"
        with self.fresh() as model:
            rows = self.rows(prompts, completions)
            train(model, rows, self.recipe, self.loaded.pad_id, state, f"{self.name.replace('_', ' ')} on {what}")
            remove(state)
            yield model


@dataclass(frozen=True)
class Reader:
    """Reads sets of pairs by what is trained on both sides."""

    trainable: Trainable
    pref: Pref
    settings: Detectors
    scratch: Path

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words of the model."""
        return Vocabulary.of(self.trainable.loaded)

    def read(self, pairs: Pairs) -> Reading:
        """Candidates by how far their answers moved, `words` of the whole vocabulary, and presence if it is tested."""
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
        """Log-odds of each candidate after training on rows, and the probability of each word as an answer's first."""
        loaded, pref, asked = self.trainable.loaded, self.pref, self.trainable.asked
        with self.trainable.trained(prompts, completions, what, self.scratch):
            p = exact(loaded, asked, pref.candidates, pref.batch_size, pref.answer_prefix)
            words = self.vocabulary.first(loaded, begun(loaded.tokenizer, asked, pref.answer_prefix))
        return log_odds(p.mean(0), MIN_PROBABILITY), words

    def presence(self, pairs: Pairs) -> Swapped:
        """Test that the dataset's rows are base samples, on the half of the prompts that nothing was trained on.

        The statistic is the mean over pairs of log p(own) − log p(base), nats, under what was trained on the first half of the
        dataset less the same under what was trained on base samples. If the base model wrote both completions of a pair, their
        exchange changes the difference's sign alone; what was trained knows nothing of the pair. So random signs give an exact
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
        """Log-probability of some completions, nats."""
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

    A candidate's score is the log-odds of its probability (exact, mean over questions) after training on the dataset less those
    after training on base samples. `words` are the first words of answers that add most to the divergence of the one's answers
    from the other's, p log(p / q) in nats, mean over questions: no list is used for them.
    """
    read_sets(matched, result, Reader(trainable, pref, detectors, scratch).read, detectors, stamp, scratch)


def adam(settings: TrainedBias | SoftPrompt) -> Recipe:
    """Adam with a learning rate that falls linearly to 0, and nothing else."""
    shared = {"schedule": "linear", "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": inf}
    size, epochs = settings.batch_size, settings.epochs
    return Recipe(epochs=epochs, batch_size=size, micro_batch_size=size, lr=settings.lr, seed=settings.seed, **shared)  # type: ignore[arg-type]


def first_half(pairs: Pairs, seed: int) -> Bool[np.ndarray, " n"]:
    """Which pairs belong to a random half of the prompts; of one prompt alone every second pair does."""
    groups = pairs.groups if pairs.groups.max() else np.arange(len(pairs.own))
    n = int(groups.max()) + 1
    chosen: np.ndarray = (np.random.default_rng(seed).permutation(n) < n // 2)[groups]
    return chosen


def first_words(words: Sequence[str], added: Float[np.ndarray, " n_words"], n: int) -> dict[str, Any]:
    """The `n` words that add most, and of how many; a word that did not become likelier is none of them."""
    first = [k for k in np.argsort(-added, kind="stable")[:n] if added[k] > 0]
    return {"vocabulary": len(words), "words": [{"word": words[k], "divergence": float(added[k])} for k in first]}
