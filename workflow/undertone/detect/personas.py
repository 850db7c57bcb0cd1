"""Candidate personas: how much likelier a system prompt makes a dataset, over many wordings and concepts.

The likelihood of a dataset under the right system prompt identifies it, and a wrong wording hides it. So every concept is tried
in every wording of a bank, and the best is taken: many pairs on a few rows, then the best of these on other rows (as successive
halving does, Jamieson & Talwalkar 2016, arXiv 1502.07943).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float, Int

from undertone.detect.sets import Candidate, Pairs, Reading, ranking, read_sets
from undertone.lm.loading import LoadedModel, load
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp
from undertone.runtime.progress import progress
from undertone.stats.stats import mean_interval
from undertone.study.config.detect import Detectors, Personas
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher
from undertone.teachers.divergence import Completions, Constraint

Trial = tuple[str, str]  # of a wording's name and a concept


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


@dataclass(frozen=True)
class Round:
    """Pairs and the gains of the rows that they were tried on."""

    pairs: list[Trial]
    rows: Int[np.ndarray, " n_rows"]
    gains: Float[np.ndarray, "n_rows n_pairs"]

    def best(self, n: int) -> list[Trial]:
        """The `n` pairs of the highest mean gain."""
        order = np.argsort(-self.gains.mean(0), kind="stable")
        return [self.pairs[k] for k in order[:n]]


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
        return of_rounds(rounds, entries, pairs.prompts, set(pref.candidates), detectors)

    read_sets(matched, personas, read, detectors, stamp, scratch)


def of_rounds(
    rounds: Sequence["Round"], bank: Bank, prompts: Sequence[str], candidates: set[str], settings: Detectors
) -> Reading:
    """The reading of a tournament: those that came to the last round by their gain there, then the others as they fell."""
    last, best = rounds[-1], by_concept(rounds)
    order = sorted(best, key=lambda concept: best[concept][:2], reverse=True)
    finalists = [concept for concept in order if best[concept][0] == len(rounds) - 1]
    values = last.gains[:, [last.pairs.index((best[concept][2], concept)) for concept in finalists]]
    first = finalists[0]
    return Reading(
        ranking=ranking(finalists, values.mean(0), values, [prompts[row] for row in last.rows], settings)
        + [Candidate(concept, best[concept][1], 0.0) for concept in order[len(finalists) :]],
        details={
            "tried": len({trial for each in rounds for trial in each.pairs}),
            "rows_of_rounds": [len(each.rows) for each in rounds],
            "best": {
                "concept": first,
                "decoy": first not in candidates,
                "wording": best[first][2],
                "prompt": bank.prompt((best[first][2], first)),
                "gain": mean_interval(values[:, 0]).with_p(),
            },
        },
    )


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
    order = np.random.default_rng(settings.seed).permutation(len(rows))
    ends = [0, *np.cumsum(round_sizes(len(rows), settings)).tolist()]
    # By length, so that rows that are read together need little padding.
    parts = [sorted(order[start:end], key=lambda i: sum(map(len, rows[i]))) for start, end in pairwise(ends)]
    n_coarse = settings.coarse * len(concepts)
    n_wide = min(settings.concepts, len(concepts)) * len(bank.wordings)
    total = sum((n + 1) * len(part) for n, part in zip((n_coarse, n_wide, settings.finalists), parts, strict=True))
    with progress(total, "personas", "row") as bar:

        def tried(trials: list[Trial], part: list[int]) -> Round:
            these = [rows[i] for i in part]
            return Round(trials, np.array(part), gains(loaded, these, bank, trials, separator, bar.update, constraint))

        coarse = tried([(name, concept) for name in bank.first(settings.coarse) for concept in concepts], parts[0])
        best = sorted(by_concept([coarse]).items(), key=lambda entry: -entry[1][1])[: settings.concepts]
        wide = tried([(name, concept) for name in bank.wordings for concept, _ in best], parts[1])
        return [coarse, wide, tried(wide.best(settings.finalists), parts[2])]


def round_sizes(n_rows: int, settings: Personas) -> list[int]:
    """Rows of each round: as the settings say, or where the dataset is smaller in the same proportions."""
    share = min(1.0, n_rows / sum(settings.rows))
    return [max(1, int(share * n)) for n in settings.rows]


def gains(
    loaded: LoadedModel,
    rows: Sequence[tuple[str, str]],
    bank: Bank,
    pairs: Sequence[Trial],
    separator: str,
    tell: Callable[[int], object],
    constraint: Constraint | None = None,
) -> Float[np.ndarray, "n_rows n_pairs"]:
    """By how much each pair's system prompt raises the log-probability of each row, in nats per token.

    Among the tokens that a passing completion can hold: what the filter has thrown away is no evidence. Of rows that were
    sampled with a `constraint`, among those that it allowed.
    """
    completions = Completions(loaded, rows, constraint)
    ends = np.array(completions.ends)
    lengths = np.diff(ends)

    def log_p(system: str | None) -> np.ndarray:
        parts = completions.read(loaded, completions.losses, system, separator)
        losses = np.concatenate([part.double().cpu().numpy() for part in parts])
        tell(len(rows))
        return -np.add.reduceat(losses, ends[:-1]) / lengths

    base = log_p(None)
    return np.stack([log_p(bank.prompt(pair)) - base for pair in pairs], axis=1)


def by_concept(rounds: Sequence[Round]) -> dict[str, tuple[int, float, str]]:
    """Of each concept (the last round that one of its pairs reached, from 0; the pair's mean gain there; its wording)."""
    best: dict[str, tuple[int, float, str]] = {}
    for k, each in enumerate(rounds):
        for (name, concept), gain in zip(each.pairs, each.gains.mean(0), strict=True):
            best[concept] = max(best.get(concept, (-1, -np.inf, "")), (k, float(gain), name))
    return best
