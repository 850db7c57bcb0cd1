"""Divergence tokens: whether a dataset agrees with a persona at the tokens where the persona changes the model's choice.

Schrodi et al. 2025 (arXiv 2509.23886) find that few tokens carry what a student takes over: those at which teachers with
different biases would choose differently. Here each of these tokens counts at most 1, whatever its likelihood, so that no
single token decides against a wording.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from undertone.detect.rounds import Trial
from undertone.detect.sets import Pairs, Reading, ranking, read_sets
from undertone.lm.loading import LoadedModel, load
from undertone.models.bank import Bank
from undertone.runtime.files import Stamp
from undertone.runtime.progress import progress
from undertone.study.config.detect import Detectors, Personas
from undertone.study.config.measure import Pref
from undertone.study.config.teachers import Teacher
from undertone.teachers.divergence import Completions, Constraint


def read_divergence_tokens(
    model: Path,
    matched: Path,
    bank: Path,
    divergence_tokens: Path,
    personas: Personas,
    detectors: Detectors,
    pref: Pref,
    teacher: Teacher,
    settings: dict[str, Any],
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Write `divergence_tokens.json`: candidates by how much more often rows agree with their persona than with the base model.

    For each candidate the best of the first `personas.coarse` wordings counts, on as many rows as the last round of `personas`
    has. `candidates` holds for each its `wording`, the number of its divergence tokens (`diverging`), and gains in
    log-likelihood in nats per token: `gain` over all tokens, under the wording of the highest gain, and `gain_there` over its
    divergence tokens alone. `settings` hold the study's `constraint` if sampling is constrained.
    """
    loaded, entries, constraint = load(model), Bank.read(bank), Constraint.of(settings.get("constraint"))
    trials = [(name, concept) for concept in pref.candidates for name in entries.first(personas.coarse)]

    def read(pairs: Pairs) -> Reading:
        order = np.random.default_rng(personas.seed).permutation(len(pairs.own))[: personas.rows[-1]]
        # Sorted by length, so that batches need little padding.
        chosen = sorted(order, key=lambda i: len(pairs.prompts[i]) + len(pairs.own[i]))
        rows = [(pairs.prompts[i], pairs.own[i]) for i in chosen]
        tried = compared(loaded, rows, entries, trials, teacher.separator, constraint)
        by_concept = [[each for each in tried if each.trial[1] == concept] for concept in pref.candidates]
        best = [max(those, key=lambda each: each.rate) for those in by_concept]
        gains = [max(each.gain for each in those) for those in by_concept]
        scores, values = np.array([each.rate for each in best]), np.stack([each.by_row for each in best], axis=1)
        ranked = ranking(pref.candidates, scores, values, [prompt for prompt, _ in rows], detectors)
        details = [each.as_json() | {"gain": gain} for each, gain in zip(best, gains, strict=True)]
        return Reading(ranking=ranked, details={"rows_tried": len(rows), "candidates": details})

    read_sets(matched, divergence_tokens, read, detectors, stamp, scratch)


@dataclass(frozen=True)
class Agreement:
    """Agreement of rows with a system prompt at its divergence tokens.

    `diverging` is the number of divergence tokens of each row. `agreed` is how many of these tokens are the system prompt's
    choice minus how many are the base model's choice. `gain` is how much the system prompt raises the rows' log-probability, in
    nats per token as in `personas`; `gain_there` is the mean rise over divergence tokens alone.
    """

    trial: Trial
    agreed: Float[np.ndarray, " n_rows"]
    diverging: Float[np.ndarray, " n_rows"]
    gain: float
    gain_there: float

    @property
    def rate(self) -> float:
        """Mean agreement over divergence tokens; −1, the minimum, if there are none."""
        n = self.diverging.sum()
        return float(self.agreed.sum() / n) if n else -1.0

    @property
    def by_row(self) -> Float[np.ndarray, " n_rows"]:
        """Contribution of each row to the rate: the mean is the rate, the spread is that of a ratio of means."""
        return self.rate + (self.agreed - self.rate * self.diverging) / max(float(self.diverging.mean()), 1e-300)

    def as_json(self) -> dict[str, Any]:
        """The agreement as JSON."""
        name, concept = self.trial
        return {
            "concept": concept,
            "wording": name,
            "diverging": int(self.diverging.sum()),
            "gain_there": self.gain_there,
        }


def compared(
    loaded: LoadedModel,
    rows: Sequence[tuple[str, str]],
    bank: Bank,
    trials: Sequence[Trial],
    separator: str,
    constraint: Constraint | None = None,
) -> list[Agreement]:
    """Return the rows' agreement with each system prompt, at the tokens where it changes the model's choice.

    Choices are among the tokens that a passing completion can hold, as for the gains of `personas`.
    """
    completions = Completions(loaded, rows, constraint)
    starts = np.array(completions.ends[:-1])
    labels = completions.labels.cpu().numpy()

    def read(system: str | None) -> tuple[Int[np.ndarray, " n_labels"], Float[np.ndarray, " n_labels"]]:
        def figure(logits: Tensor, span: slice) -> tuple[Tensor, Tensor]:
            log_p = completions.among(logits, span)
            own = log_p.gather(1, completions.labels[span].unsqueeze(1)).squeeze(1)
            return log_p.argmax(1).cpu(), own.double().cpu()

        chosen, log_p = zip(*completions.read(loaded, figure, system, separator), strict=True)
        bar.update(len(rows))
        return torch.cat(chosen).numpy(), torch.cat(log_p).numpy()

    def compare(trial: Trial) -> Agreement:
        theirs, log_p = read(bank.prompt(trial))
        gain, diverging = log_p - log_p0, theirs != none
        agreed = diverging * ((labels == theirs).astype(float) - (labels == none))
        return Agreement(
            trial,
            np.add.reduceat(agreed, starts),
            np.add.reduceat(diverging.astype(float), starts),
            float(gain.mean()),
            float(gain[diverging].mean()) if diverging.any() else 0.0,
        )

    with progress((len(trials) + 1) * len(rows), "divergence tokens", "row") as bar:
        none, log_p0 = read(None)
        return [compare(trial) for trial in trials]
