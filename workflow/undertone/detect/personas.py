"""Candidate personas: how much likelier a system prompt makes a dataset, over many wordings and concepts.

The likelihood of a dataset under the right system prompt identifies that prompt, but a wrong wording hides it. So concepts are
tried in many wordings of a bank, and the best are taken, in rounds.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from undertone.detect.rounds import Round, Trial, by_concept, dealt, gains_under, halving, of_rounds
from undertone.detect.sets import Pairs, Reading, read_sets
from undertone.lm.loading import LoadedModel, load
from undertone.models.bank import Bank
from undertone.runtime.files import Stamp
from undertone.study.config.detect import Detectors, Personas
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher
from undertone.teachers.divergence import Completions, Constraint


def read_personas(
    model: Path,
    matched: Path,
    bank: Path,
    personas: Path,
    own: Personas,
    detectors: Detectors,
    pref: Pref,
    teacher: Teacher,
    settings: dict[str, Any],
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Write `personas.json`: concepts ranked by the gain of their best wording, in nats per token, including decoys.

    `best` is the first concept, with its gain on the rows of the last round, which chose only among finalists. `settings` hold
    the study's `constraint` if sampling is constrained.
    """
    loaded, entries = load(model), Bank.read(bank)
    concepts, constraint = list(dict.fromkeys([*pref.candidates, *entries.decoys])), Constraint.of(settings.get("constraint"))

    def read(pairs: Pairs) -> Reading:
        rows = list(zip(pairs.prompts, pairs.own, strict=True))
        rounds = tournament(loaded, rows, entries, concepts, teacher.separator, own, constraint)
        return of_rounds(rounds, pairs.prompts, set(pref.candidates), detectors, entries.described)

    read_sets(matched, personas, read, detectors, stamp, scratch)


def tournament(
    loaded: LoadedModel,
    rows: Sequence[tuple[str, str]],
    bank: Bank,
    concepts: Sequence[str],
    separator: str,
    settings: Personas,
    constraint: Constraint | None = None,
) -> list[Round]:
    """Run three rounds: all concepts in a few wordings, the best in all wordings, the best of these pairs on the most rows.

    `rows` are (prompt, completion); none is read in two rounds. A concept's gains in different wordings go up and down with the
    same rows. So more rows, not more wordings, keep a concept from dropping out by chance in the first round.
    """

    def read(these: Sequence[tuple[str, str]], trials: Sequence[Trial], tell: Callable[[int], object]) -> np.ndarray:
        return gains(loaded, these, bank, trials, separator, tell, constraint)

    def widened(coarse: Round) -> list[Trial]:
        best = sorted(by_concept([coarse]).items(), key=lambda entry: -entry[1][1])[: settings.concepts]
        return [(name, concept) for name in bank.wordings for concept, _ in best]

    first = [(name, concept) for name in bank.first(settings.coarse) for concept in concepts]
    return halving(rows, dealt(rows, settings.rows, settings.seed), first, widened, settings.finalists, read, "personas")


def gains(
    loaded: LoadedModel,
    rows: Sequence[tuple[str, str]],
    bank: Bank,
    pairs: Sequence[Trial],
    separator: str,
    tell: Callable[[int], object],
    constraint: Constraint | None = None,
) -> Float[np.ndarray, "n_rows n_pairs"]:
    """Return how much each pair's system prompt raises the log-probability of each row; see `gains_under`."""

    def under(completions: Completions, trial: Trial | None) -> Iterator[Tensor]:
        return completions.read(loaded, completions.losses, bank.prompt(trial) if trial else None, separator)

    return gains_under(loaded, rows, pairs, under, tell, constraint)
