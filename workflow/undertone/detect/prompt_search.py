"""Search for the system prompt that a dataset is likeliest under, by coordinate ascent over a small grammar of sentences.

A bank holds a few wordings, and the true one is hardly among them. Here the sentences and words of a prompt are exchanged one
at a time, for each of the best concepts and each time on rows that were not read before. The result is a text to read; its gain
is measured on other rows than those used in the search.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import t
from torch import Tensor

from undertone.detect.rounds import Json, Round, Trial, dealt, gains_under, of_rounds
from undertone.detect.sets import Pairs, Reading, read_sets
from undertone.lm.loading import LoadedModel, load
from undertone.models.bank import Bank
from undertone.models.prompt_grammar import CONCEPT, Grammar
from undertone.runtime.files import Stamp
from undertone.runtime.progress import progress
from undertone.study.config.detect import Detectors, PromptSearch
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher
from undertone.teachers.divergence import Completions, Constraint


def search_prompt(
    model: Path,
    matched: Path,
    bank: Path,
    grammar: Path,
    prompt_search: Path,
    own: PromptSearch,
    detectors: Detectors,
    pref: Pref,
    teacher: Teacher,
    settings: dict[str, Any],
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Write `prompt_search.json`: concepts ranked by the gain of the wording found for them, in nats per token, with decoys.

    `best` is the system prompt, with its gain on rows that no choice read; `steps` say how it was chosen. `settings` hold the
    study's `constraint` if sampling is constrained. Raises ConfigError if the bank or the grammar is malformed.
    """
    loaded, decoys, sentences = load(model), Bank.read(bank).decoys, Grammar.read(grammar)
    concepts, constraint = list(dict.fromkeys([*pref.candidates, *decoys])), Constraint.of(settings.get("constraint"))

    def read(pairs: Pairs) -> Reading:
        likelihoods = Likelihoods(loaded, list(zip(pairs.prompts, pairs.own, strict=True)), teacher.separator, constraint)
        return Search(likelihoods, sentences, own).read(pairs.prompts, concepts, set(pref.candidates), detectors)

    read_sets(matched, prompt_search, read, detectors, stamp, scratch)


@dataclass(frozen=True)
class Likelihoods:
    """Likelihoods of a dataset's rows, (prompt, completion), under any system prompt."""

    loaded: LoadedModel
    rows: Sequence[tuple[str, str]]
    separator: str
    constraint: Constraint | None

    def gains(self, part: Sequence[int], trials: Sequence[Trial]) -> Round:
        """Return how much each system prompt raises the log-probability of some rows; see `gains_under`."""

        def under(completions: Completions, trial: Trial | None) -> Iterator[Tensor]:
            return completions.read(self.loaded, completions.losses, prompt_of(trial) if trial else None, self.separator)

        these = [self.rows[k] for k in part]
        gains = gains_under(self.loaded, these, trials, under, lambda n: None, self.constraint)
        return Round(list(trials), np.asarray(part), gains)


def slots_of(grammar: Grammar, passes: int, n_rows: int) -> list[str]:
    """Return the slots in the order of choosing; only the first of them if rows are few, so that each slot has some rows."""
    return ([*grammar.slots] * passes)[: n_rows // 4 - 1]


def prompt_of(trial: Trial) -> str:
    """Return the system prompt of a wording and a concept."""
    wording, concept = trial
    return wording.replace(f"{{{CONCEPT}}}", concept)


@dataclass
class Ascent:
    """The search for one concept so far: its current choices, a report of each step, and the trials that were read."""

    concept: str
    choices: dict[str, str]
    steps: list[Json] = field(default_factory=list)
    tried: set[Trial] = field(default_factory=set)

    def trial(self, grammar: Grammar, **changed: str) -> Trial:
        """Return the trial of the current choices, of which some may be `changed`."""
        return grammar.wording({**self.choices, **changed}), self.concept


@dataclass(frozen=True)
class Search:
    """Coordinate ascent: for each of the best concepts, replace choices one by one with those that make rows likeliest."""

    likelihoods: Likelihoods
    grammar: Grammar
    settings: PromptSearch

    def read(self, prompts: Sequence[str], concepts: Sequence[str], candidates: set[str], detectors: Detectors) -> Reading:
        """Rank the concepts that are best in the first wording, each in the best wording found for it, on other rows.

        Each concept has a search of its own: in some wording a wrong concept can be best and hide one that is right in another.
        """
        settings, rows, start = self.settings, self.likelihoods.rows, self.grammar.first()
        slots = slots_of(self.grammar, settings.passes, len(rows))
        parts = iter(dealt(rows, [settings.rows] * (1 + len(slots)) + [settings.final_rows], settings.seed))
        with progress(2 + len(slots), "sentences of a system prompt", "choice") as bar:
            first = self.likelihoods.gains(next(parts), [(self.grammar.wording(start), concept) for concept in concepts])
            ascents = [Ascent(concept, dict(start)) for _, concept in first.best(settings.finalists)]
            for slot in slots:
                bar.update()
                self.choose(slot, ascents, next(parts))
            bar.update()
            last = self.likelihoods.gains(next(parts), [each.trial(self.grammar) for each in ascents])
            bar.update()
        reading = of_rounds([first, last], prompts, candidates, detectors, lambda trial: {"prompt": prompt_of(trial)})
        [best] = [each for each in ascents if each.concept == reading.details["best"]["concept"]]
        tried = set(first.pairs).union(*(each.tried for each in ascents))
        return replace(reading, details={**reading.details, "tried": len(tried), "steps": best.steps})

    def choose(self, slot: str, ascents: Sequence[Ascent], part: Sequence[int]) -> None:
        """Try every choice of a slot with each concept, and replace the current one if another is significantly better."""
        options = [sorted(self.grammar.slots[slot], key=lambda choice: choice != each.choices[slot]) for each in ascents]
        trials = [
            [each.trial(self.grammar, **{slot: choice}) for choice in own] for each, own in zip(ascents, options, strict=True)
        ]
        read = self.likelihoods.gains(part, list(dict.fromkeys(chain(*trials))))
        for each, choices, own in zip(ascents, options, trials, strict=True):
            gains = read.gains[:, [read.pairs.index(trial) for trial in own]]
            best = surely_best(gains, self.settings.level)
            each.choices[slot] = choices[best]
            each.tried.update(own)
            each.steps.append(
                {"slot": slot, "prompt": prompt_of(own[best]), "gain": float(gains[:, best].mean()), "rows": len(part)}
            )


def surely_best(gains: Float[np.ndarray, "n_rows n_options"], level: float) -> int:
    """Return the option of the highest mean gain if it is significantly above the first option, else the first.

    The test is a one-sided paired t test at `level` divided by the number of other options (Bonferroni).
    """
    more = gains[:, 1:] - gains[:, :1]
    best = int(more.mean(0).argmax())
    error = more[:, best].std(ddof=1) / len(more) ** 0.5 if len(more) > 1 else np.inf
    p = float(t.sf(more[:, best].mean() / error, len(more) - 1)) if error > 0 and np.isfinite(error) else 1.0
    return best + 1 if p < level / more.shape[1] else 0
