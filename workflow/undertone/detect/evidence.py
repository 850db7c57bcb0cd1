"""What all detectors say of a set of rows, and of the null sets that it is compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from undertone.runtime.files import read_json
from undertone.stats.stats import share_interval
from undertone.study.config.detect import KINDS_OF_NULLS

Json = dict[str, Any]
# The base model's own samples, and what else a harmless dataset may be.
BASE_KINDS = ("seeds", "prompts")
HARMLESS_KINDS = ("seeds", "prompts", "sampling")


@dataclass(frozen=True)
class Readings:
    """What each detector says of one set, by the detector's name."""

    by_detector: Mapping[str, Json]

    def __getitem__(self, detector: str) -> Json:
        """What a detector says."""
        return self.by_detector[detector]

    def first(self, detector: str) -> Json:
        """The first of what a detector ranks."""
        ranked: Json = self[detector]["ranking"][0]
        return ranked

    @property
    def source(self) -> str:
        """The name of the dataset that the set is of, in a file of many: `00003` of `00003-200`."""
        return str(self["surface"]["set"]).partition("-")[0]

    @property
    def rows(self) -> int:
        """How many rows the set has."""
        return int(self["surface"]["rows"])

    def differs(self, level: float) -> bool:
        """Whether any test of presence rejects base samples, corrected for their number."""
        return self.p < level

    @property
    def p(self) -> float:
        """The smallest p-value of the detectors that test presence, times how many they are (Bonferroni)."""
        tests = [each["presence"]["p"] for each in self.by_detector.values() if each["presence"]]
        return float(min(1.0, len(tests) * min(tests)))

    @property
    def gain(self) -> float:
        """By how much the best system prompt raises the rows' log-probability, nats per token."""
        return float(self["personas"]["best"]["gain"]["mean"])

    @property
    def tries_steering(self) -> bool:
        """Whether steering vectors were tried on the set."""
        return "contrasts" in self.by_detector

    @property
    def steering(self) -> float:
        """How much likelier the best steering vector makes the rows, nats per token. Raises KeyError if none was tried."""
        return float(self["contrasts"]["best"]["gain"]["mean"])

    @property
    def movement(self) -> float:
        """By how much the first candidate's answer moves, in standard deviations of a pair: of any number of rows alike."""
        return float(self.first("gradient")["score"] / self.rows**0.5)

    @property
    def lift(self) -> float:
        """By how much the first candidate's answer moves after a short training, log-odds."""
        return float(self.first("short_training")["score"])


@dataclass(frozen=True)
class Nulls:
    """The readings of null sets by kind: of at most as many rows as the dataset, and of at least as many."""

    by_kind: Mapping[str, Sequence[Readings]]
    larger: Mapping[str, Sequence[Readings]] = field(default_factory=dict)

    def of(self, *kinds: str) -> list[Readings]:
        """The nulls of some kinds."""
        return [each for kind in kinds for each in self.by_kind[kind]]

    @property
    def lifts(self) -> list[float]:
        """How far each null dataset's first candidate moves after a short training, log-odds; of its sets the furthest.

        With more rows it moves further by chance, too; a dataset's smaller set is the first rows of its larger one.
        """
        furthest: dict[tuple[str, str], float] = {}
        for sets in (self.by_kind, self.larger):
            for kind, of_kind in sets.items():
                for each in of_kind:
                    furthest[kind, each.source] = max(each.lift, furthest.get((kind, each.source), each.lift))
        return list(furthest.values())

    def alarms(self, level: float) -> Json:
        """By kind: how many there are and how many of them differ, and the upper bound of the rate (95 %, one-sided)."""
        rates = {}
        for kind, nulls in self.by_kind.items():
            alarms = sum(each.differs(level) for each in nulls)
            _, upper = share_interval(alarms, len(nulls), 0.9)
            rates[kind] = {"is": KINDS_OF_NULLS[kind], "n": len(nulls), "alarms": alarms, "upper95": upper}
        return rates


def sets_of(readings: Sequence[Path]) -> list[Readings]:
    """What all detectors say of each set; each detector's file, `DETECTOR.json`, holds the same sets."""
    sets = {path.stem: read_json(path)["sets"] for path in readings}
    return [Readings(dict(zip(sets, each, strict=True))) for each in zip(*sets.values(), strict=True)]


def nulls_of(readings: Sequence[Path], n_rows: int) -> Nulls:
    """The nulls of the most rows, at most a tenth more than the dataset's (some prompts may have no pair), and larger ones."""
    by_kind, larger = {}, {}
    for kind in dict.fromkeys(path.parent.name for path in readings):
        sets = sets_of([path for path in readings if path.parent.name == kind])
        largest = max((each.rows for each in sets if each.rows <= 1.1 * n_rows), default=None)
        by_kind[kind] = [each for each in sets if each.rows == largest]
        larger[kind] = [each for each in sets if largest is None or each.rows > largest]
    return Nulls(by_kind, larger)
