"""Rounds of trials of what may have written a dataset: many trials on a few of its rows, then the best of them on others.

This is successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943). No row is read in two rounds. So the gain of the last
round's winner needs no correction for what was tried before; it is the best of that round's few trials.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from undertone.detect.sets import Candidate, Reading, ranking
from undertone.lm.loading import LoadedModel
from undertone.runtime.progress import progress
from undertone.stats.stats import mean_interval
from undertone.study.config.detect import Detectors
from undertone.teachers.divergence import Completions, Constraint

Json = dict[str, Any]
Trial = tuple[str, str]  # a way (a wording, or a vector's layer and length) and a concept
# Yields the losses of rows' tokens, in nats, with a trial's system prompt or steering vector; with neither if it is None.
Under = Callable[[Completions, Trial | None], Iterator[Tensor]]


@dataclass(frozen=True)
class Round:
    """Trials, the rows that they were tried on, and the gain of each row under each trial."""

    pairs: list[Trial]
    rows: Int[np.ndarray, " n_rows"]
    gains: Float[np.ndarray, "n_rows n_pairs"]

    def best(self, n: int) -> list[Trial]:
        """Return the `n` trials of the highest mean gain."""
        order = np.argsort(-self.gains.mean(0), kind="stable")
        return [self.pairs[k] for k in order[:n]]

    def finalists(self, n: int) -> list[Trial]:
        """Return the `n` best trials; if all are of one concept, the last is replaced by the best trial of another.

        Without a second concept, the share of bootstrap samples says nothing.
        """
        best = self.best(n)
        rivals = [trial for trial in self.best(len(self.pairs)) if trial[1] != best[0][1]]
        alone = len({concept for _, concept in best}) == 1
        return [*best[: n - 1], rivals[0]] if alone and rivals else best


# Returns the gains [n_rows, n_trials] of rows (prompt, completion); calls its third argument with the number of rows read.
Gains = Callable[[Sequence[tuple[str, str]], Sequence[Trial], Callable[[int], object]], Float[np.ndarray, "n_rows n_trials"]]


def halving(
    rows: Sequence[tuple[str, str]],
    parts: Sequence[Sequence[int]],
    first: Sequence[Trial],
    widened: Callable[[Round], list[Trial]],
    finalists: int,
    gains: Gains,
    what: str,
) -> list[Round]:
    """Run three rounds on three parts of the rows: `first` trials, those that `widened` makes of them, the best of these."""

    def tried(trials: list[Trial], number: int) -> Round:
        part = np.asarray(parts[number], dtype=int)
        with progress((len(trials) + 1) * len(part), f"{what}, round {number + 1} of 3", "row") as bar:
            return Round(trials, part, gains([rows[k] for k in part], trials, bar.update))

    coarse = tried(list(first), 0)
    wide = tried(widened(coarse), 1)
    return [coarse, wide, tried(wide.finalists(finalists), 2)]


def dealt(rows: Sequence[tuple[str, str]], sizes: Sequence[int], seed: int) -> list[list[int]]:
    """Deal the rows' indices at random into disjoint parts, each sorted by length, so that batches need little padding."""
    order = np.random.default_rng(seed).permutation(len(rows))
    ends = [0, *np.cumsum(part_sizes(len(rows), sizes)).tolist()]
    return [sorted(order[start:end].tolist(), key=lambda k: sum(map(len, rows[k]))) for start, end in pairwise(ends)]


def part_sizes(n_rows: int, sizes: Sequence[int]) -> list[int]:
    """Return the number of rows of each part: `sizes`, or fewer in the same proportions if the dataset is smaller."""
    share = min(1.0, n_rows / sum(sizes))
    return [max(1, int(share * n)) for n in sizes]


def gains_under(
    loaded: LoadedModel,
    rows: Sequence[tuple[str, str]],
    trials: Sequence[Trial],
    under: Under,
    tell: Callable[[int], object],
    constraint: Constraint | None = None,
) -> Float[np.ndarray, "n_rows n_trials"]:
    """Return how much each trial raises the log-probability of each row, in nats over the mean number of tokens.

    So the mean over rows is the log-likelihood ratio per token of all rows together, which the true trial maximises (Gibbs'
    inequality). A mean of the rows' own means would give the tokens of short rows more weight.

    Probabilities are among the tokens that a passing completion can hold, because what the filter removed is no evidence. For
    rows that were sampled with a `constraint`, they are among the tokens that it allowed.
    """
    completions = Completions(loaded, rows, constraint)
    starts, lengths = np.array(completions.ends[:-1]), np.diff(completions.ends)

    def log_p(trial: Trial | None) -> np.ndarray:
        losses = np.concatenate([part.double().cpu().numpy() for part in under(completions, trial)])
        tell(len(rows))
        return -np.add.reduceat(losses, starts)

    base = log_p(None)
    return np.stack([log_p(trial) - base for trial in trials], axis=1) / lengths.mean()


def of_rounds(
    rounds: Sequence[Round],
    prompts: Sequence[str],
    candidates: set[str],
    settings: Detectors,
    describe: Callable[[Trial], Json],
) -> Reading:
    """Make a reading: concepts of the last round by gain, then the others by the last round they reached and their gain there.

    `describe` says what the best trial is.
    """
    last, best = rounds[-1], by_concept(rounds)
    order = sorted(best, key=lambda concept: best[concept][:2], reverse=True)
    finalists = [concept for concept in order if best[concept][0] == len(rounds) - 1]
    values = last.gains[:, [last.pairs.index((best[concept][2], concept)) for concept in finalists]]
    first = finalists[0]
    ranked = ranking(finalists, values.mean(0), values, [prompts[row] for row in last.rows], settings)
    if len(ranked) == 1:  # being first without a rival is no evidence
        ranked = [replace(ranked[0], share=0.0)]
    return Reading(
        ranking=ranked + [Candidate(concept, best[concept][1], 0.0) for concept in order[len(finalists) :]],
        details={
            "tried": len({trial for each in rounds for trial in each.pairs}),
            "rows_of_rounds": [len(each.rows) for each in rounds],
            "best": {
                "concept": first,
                "decoy": first not in candidates,
                **describe((best[first][2], first)),
                "gain": mean_interval(values[:, 0]).with_p(),
            },
        },
    )


def by_concept(rounds: Sequence[Round]) -> Mapping[str, tuple[int, float, str]]:
    """Map each concept to (last round that a trial of it reached, from 0; the best trial's mean gain there; its way)."""
    best: dict[str, tuple[int, float, str]] = {}
    for k, each in enumerate(rounds):
        for (way, concept), gain in zip(each.pairs, each.gains.mean(0), strict=True):
            best[concept] = max(best.get(concept, (-1, -np.inf, "")), (k, float(gain), way))
    return best
