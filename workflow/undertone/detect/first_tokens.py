"""First tokens: compare the tokens that a dataset's numbers begin with to those of the base model and of personas.

A persona shifts the distribution of the token that a number begins with, and hardly that of what stands between numbers. A
dataset has thousands of these tokens, so their counts alone tell personas apart, without the likelihood of other tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from undertone.detect.pairs import Swapped, signs
from undertone.detect.sets import Pairs, Reading, ranking, read_sets
from undertone.lm.chat import answer_ids
from undertone.lm.loading import LoadedModel, load
from undertone.lm.vocabulary import number_tokens
from undertone.models.bank import Bank
from undertone.runtime.files import Stamp
from undertone.runtime.progress import progress
from undertone.study.config.detect import Detectors, Personas
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher
from undertone.teachers.divergence import Completions, Constraint


def read_first_tokens(
    model: Path,
    matched: Path,
    bank: Path,
    first_tokens: Path,
    personas: Personas,
    detectors: Detectors,
    pref: Pref,
    teacher: Teacher,
    settings: dict[str, Any],
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Write `first_tokens.json`: presence from the tokens that numbers begin with, candidates by how well their shifts fit.

    A candidate's score is a z-score: how much more often the dataset takes the tokens that its personas make likelier than the
    base model would at the same places. Shifts are measured under the first `personas.coarse` wordings, on as many rows as the
    first round of `personas` has. `settings` hold the study's `constraint` if sampling is constrained.
    """
    loaded, entries, constraint = load(model), Bank.read(bank), Constraint.of(settings.get("constraint"))

    def read(pairs: Pairs) -> Reading:
        own, base = (starts(loaded, texts) for texts in (pairs.own, pairs.base))
        presence = counts_differ(own, base, detectors.permutations, detectors.seed)
        rows = list(zip(pairs.prompts, pairs.own, strict=True))
        with progress(len(rows), f"first tokens {first_tokens.parent.name}", "row") as bar:
            every = Beginnings(loaded, rows, constraint)
            # A row that violates the constraint disables it for `every`; `some` must then read the same tokens without it.
            some = Beginnings(loaded, rows[: personas.rows[0]], constraint if every.completions.places else None)
            shifts = persona_shifts(loaded, some, entries, pref.candidates, teacher.separator, personas)
            surplus, variance = every.surplus(loaded, shifts, bar.update)
        values = surplus / np.sqrt(np.where(variance > 0, variance, np.inf) / len(rows))
        scores = np.sqrt(len(rows)) * values.mean(0)
        details = {"begun": sum(map(len, own)), "tokens": len({token for row in own for token in row})}
        return Reading(presence, ranking(pref.candidates, scores, values, pairs.prompts, detectors), details)

    read_sets(matched, first_tokens, read, detectors, stamp, scratch)


def starts(loaded: LoadedModel, completions: Sequence[str]) -> list[list[int]]:
    """Return the tokens that the numbers of each completion begin with."""
    numbers = number_tokens(loaded.tokenizer)
    return [np.array(ids, dtype=int)[begins(numbers[ids])].tolist() for ids in answer_ids(loaded.tokenizer, completions)]


def begins(number: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Mark where numbers begin: at number tokens that follow no other number token."""
    return number & ~np.concatenate([[False], number[:-1]])


def counts_differ(own: Sequence[Sequence[int]], base: Sequence[Sequence[int]], permutations: int, seed: int) -> Swapped:
    """Test whether tokens are equally frequent: Σ (n − n′)² / (n + n′) over tokens, against random exchanges within pairs."""
    both = [*own, *base]
    tokens, column = np.unique([token for row in both for token in row], return_inverse=True)
    counts = np.zeros((len(both), len(tokens)))
    np.add.at(counts, (np.repeat(np.arange(len(both)), [len(row) for row in both]), column), 1.0)
    difference = (counts[: len(own)] - counts[len(own) :]) / np.sqrt(counts.sum(0))
    null = np.concatenate([np.square(s @ difference).sum(1) for s in signs(permutations, len(own), seed)])
    return Swapped.of(float(np.square(difference.sum(0)).sum()), null)


class Beginnings:
    """Places where a number begins, with distributions over the tokens that it can begin with.

    A place is selected because a number token stands there. So distributions cover number tokens alone, of those that a passing
    completion can hold there.
    """

    def __init__(self, loaded: LoadedModel, rows: Sequence[tuple[str, str]], constraint: Constraint | None = None):
        self.completions = Completions(loaded, rows, constraint)
        kinds = number_tokens(loaded.tokenizer)
        answers = [np.array(answer) for answer in self.completions.answers]
        self.n_rows = len(rows)
        self.here = torch.from_numpy(np.concatenate([begins(kinds[answer]) for answer in answers]))
        self.row = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(answer) for answer in answers]))
        self.numbers = torch.from_numpy(np.flatnonzero(kinds[self.completions.allowed.cpu().numpy()]))
        self.token = torch.searchsorted(self.numbers, self.completions.labels.cpu())  # of a number, its place among them

    def read(
        self, loaded: LoadedModel, system: str | None = None, separator: str = ""
    ) -> Iterator[tuple[slice, Float[Tensor, "n_begun n_numbers"]]]:
        """Yield (slice of completion tokens, log-probs of number tokens at those of them where a number begins)."""

        def figure(logits: Tensor, span: slice) -> tuple[slice, Tensor]:
            log_p = self.completions.among(logits, span).double().cpu()[self.here[span]]
            return span, log_p[:, self.numbers].log_softmax(-1)

        yield from self.completions.read(loaded, figure, system, separator)

    def log_p(self, loaded: LoadedModel, system: str | None = None, separator: str = "") -> Float[Tensor, "n_begun n_numbers"]:
        """Return the log-probs of number tokens at all places where a number begins."""
        return torch.cat([log_p for _, log_p in self.read(loaded, system, separator)])

    def surplus(
        self, loaded: LoadedModel, shifts: Float[Tensor, "k n_numbers"], tell: Callable[[int], object]
    ) -> tuple[Float[np.ndarray, "n_rows k"], Float[np.ndarray, " k"]]:
        """Return each row's sum of `shifts` over its tokens minus its expectation under the base model, and the variance.

        The variance is that of the sum over all rows, under the base model.
        """
        by_row, variance = torch.zeros(self.n_rows, len(shifts), dtype=torch.float64), torch.zeros(len(shifts)).double()
        for span, log_p in self.read(loaded):
            here, p = self.here[span], log_p.exp()
            mean = p @ shifts.T
            by_row.index_add_(0, self.row[span][here], shifts.T[self.token[span][here]] - mean)
            variance += (p @ shifts.T.square() - mean.square()).sum(0)
            tell(int(self.row[span].max() - self.row[span].min()) + 1)
        return by_row.numpy(), variance.numpy()


def persona_shifts(
    loaded: LoadedModel, places: Beginnings, bank: Bank, concepts: Sequence[str], separator: str, settings: Personas
) -> Float[Tensor, "n_concepts n_numbers"]:
    """Return how much each concept's personas raise the log-probability of number tokens, mean over places and wordings.

    The mean for a token is over the places where it can stand.
    """
    none = places.log_p(loaded)
    possible = none > -torch.inf

    def shift(system: str) -> Tensor:
        raised = torch.where(possible, places.log_p(loaded, system, separator) - none, 0.0)
        return raised.sum(0) / possible.sum(0).clamp(min=1)

    wordings = bank.first(settings.coarse)
    by_concept = [torch.stack([shift(bank.prompt((name, concept))) for name in wordings]) for concept in concepts]
    return torch.stack(by_concept).mean(1)
