"""Candidate personas: how much likelier a system prompt makes a dataset, over many wordings and concepts.

The likelihood of a dataset under the right system prompt identifies it, and a wrong wording hides it. So every concept is tried
in every wording of a bank, and the best is taken, in rounds.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float
from torch import Tensor

from undertone.detect.rounds import Json, Round, Trial, by_concept, dealt, gains_under, halving, of_rounds
from undertone.detect.sets import Pairs, Reading, read_sets
from undertone.lm.loading import LoadedModel, load
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp
from undertone.study.config.detect import Detectors, Personas
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher
from undertone.teachers.divergence import Completions, Constraint


@dataclass(frozen=True)
class Bank:
    """Wordings by name, with `{x}` where the concept stands, and decoys: concepts that are no candidates."""

    wordings: dict[str, str]
    decoys: list[str]

    @classmethod
    def read(cls, path: Path) -> "Bank":
        """Read a YAML file with `wordings` and `decoys`. Raises ConfigError if it holds anything else."""
        try:
            entries = yaml.safe_load(Path(path).read_text())
            wordings, decoys = dict(entries["wordings"]), list(entries["decoys"])
        except (OSError, yaml.YAMLError, TypeError, KeyError, ValueError) as error:
            raise ConfigError(f"{path}: expected the keys wordings (name: text) and decoys (a list): {error!r}") from None
        for name, text in wordings.items():
            if not isinstance(text, str) or "{x}" not in text:
                raise ConfigError(f"{path}: wording {name!r} is {text!r}, expected a text with {{x}} where the concept stands")
        if len(set(decoys)) < len(decoys) or not all(isinstance(decoy, str) and decoy for decoy in decoys):
            raise ConfigError(f"{path}: decoys are to be different words, found {decoys!r}")
        return cls(wordings, decoys)

    def first(self, n: int) -> list[str]:
        """The names of the first `n` wordings."""
        return [*self.wordings][:n]

    def prompt(self, trial: Trial) -> str:
        """The system prompt of a wording and a concept."""
        name, concept = trial
        return self.wordings[name].replace("{x}", concept)

    def described(self, trial: Trial) -> Json:
        """A trial as files name it."""
        return {"wording": trial[0], "prompt": self.prompt(trial)}


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
    """Write `personas.json`: concepts by the gain of their best wording, in nats per token; decoys stand among the candidates.

    `best` is the first of them, its gain on the rows of the last round. These chose nothing, so that its interval is that of a
    system prompt named beforehand. `settings` hold the study's `constraint` where sampling is constrained.
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
    """Every concept in a few wordings, the best concepts in every wording, and the best of these pairs on the most rows.

    `rows` are prompts and completions; none is read in two rounds. A concept's gains in different wordings go up and down
    with the same rows, so it is rows and not wordings that keep a concept from falling by chance in the first round.
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
    """By how much each pair's system prompt raises the log-probability of each row, in nats per token."""

    def under(completions: Completions, trial: Trial | None) -> Iterator[Tensor]:
        return completions.read(loaded, completions.losses, bank.prompt(trial) if trial else None, separator)

    nats, tokens = gains_under(loaded, rows, pairs, under, tell, constraint)
    return nats / tokens[:, None]
