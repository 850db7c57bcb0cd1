"""Steering tried on a dataset: how much likelier its rows become when a vector is added to the residual stream."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import compress

import numpy as np
from jaxtyping import Float
from torch import Tensor

from undertone.detect.pairs import Swapped
from undertone.detect.rounds import Round, Trial, dealt, gains_under, halving, of_rounds
from undertone.detect.sets import Pairs, Reading
from undertone.lm.loading import LoadedModel
from undertone.lm.steering import Steering, steered
from undertone.study.config.detect import Detectors, Tried
from undertone.teachers.divergence import Completions, Constraint


@dataclass(frozen=True)
class Way:
    """After which layer a vector is added, and the factor by which it is multiplied."""

    layer: int
    length: float

    def __str__(self) -> str:
        return f"{self.length:g} × after layer {self.layer}"


@dataclass(frozen=True)
class Tries:
    """Trials of steering vectors on the rows of a dataset.

    `layers` are the layers after which a vector is tried. `vector(concept, layer)` `[d_model]` is the vector that is added
    there at length 1.
    """

    loaded: LoadedModel
    layers: Sequence[int]
    vector: Callable[[str, int], Float[Tensor, " d_model"]]
    settings: Tried
    detectors: Detectors
    constraint: Constraint | None
    what: str

    def read(self, pairs: Pairs, concepts: Sequence[str], candidates: set[str]) -> Reading:
        """Rank concepts by the gain of their best vector, and test whether the best one tells the dataset from base samples.

        The rounds try every concept after every layer at the first length, the best of these vectors at every length, and the
        best of those. Presence is tested on rows that no round read.
        """
        settings, lengths = self.settings, self.settings.lengths
        rows = list(zip(pairs.prompts, pairs.own, strict=True))
        *parts, unread = dealt(rows, settings.rows, settings.seed)
        ways = {str(way): way for way in (Way(layer, length) for layer in self.layers for length in lengths)}

        def gains(these: Sequence[tuple[str, str]], trials: Sequence[Trial], tell: Callable[[int], object]) -> np.ndarray:
            return self.gains(ways, these, trials, tell)

        def widened(coarse: Round) -> list[Trial]:
            return [
                (str(Way(ways[way].layer, length)), concept)
                for way, concept in coarse.best(settings.kept)
                for length in lengths
            ]

        first = [(str(Way(layer, lengths[0])), concept) for layer in self.layers for concept in concepts]
        rounds = halving(rows, parts, first, widened, settings.finalists, gains, self.what)
        reading = of_rounds(rounds, pairs.prompts, candidates, self.detectors, lambda trial: asdict(ways[trial[0]]))
        best = reading.details["best"]
        winner = (str(Way(best["layer"], best["length"])), best["concept"])
        return replace(reading, presence=self.presence(pairs, unread, winner, ways))

    def gains(
        self,
        ways: dict[str, Way],
        rows: Sequence[tuple[str, str]],
        trials: Sequence[Trial],
        tell: Callable[[int], object] = lambda n: None,
    ) -> Float[np.ndarray, "n_rows n_trials"]:
        """Return how much each vector raises the log-probability of each row; see `gains_under`."""

        def under(completions: Completions, trial: Trial | None) -> Iterator[Tensor]:
            with steered(self.loaded, self.steering(ways[trial[0]], trial[1])) if trial else nullcontext():
                yield from completions.read(self.loaded, completions.losses)

        return gains_under(self.loaded, rows, trials, under, tell, self.constraint)

    def steering(self, way: Way, concept: str) -> Steering:
        """Return the steering of a concept's vector, applied at every token."""
        return Steering("add", way.length * self.vector(concept, way.layer), way.layer)

    def presence(self, pairs: Pairs, unread: Sequence[int], trial: Trial, ways: dict[str, Way]) -> Swapped:
        """Test whether the rows are base samples: the winner's mean gain on them minus that on the base model's completions.

        The vector was chosen on other rows. So if the base model wrote both completions of a pair, exchanging them changes only
        the sign of the difference, and random signs give an exact null. Both sides are read together, because one may keep to a
        constraint that the other violates.
        """
        chosen = np.isin(np.arange(len(pairs.own)), unread)
        prompts, own, base = (list(compress(each, chosen)) for each in (pairs.prompts, pairs.own, pairs.base))
        rows = list(zip(prompts * 2, [*own, *base], strict=True))
        order = np.argsort([len(prompt) + len(text) for prompt, text in rows], kind="stable")
        gains = np.empty(len(rows))
        gains[order] = self.gains(ways, [rows[k] for k in order], [trial])[:, 0]
        more = gains[: len(own)] - gains[len(own) :]
        return Swapped.of_mean(more, self.detectors.permutations, self.detectors.seed)
