"""Readings of all detectors for a set of rows, and for the null sets that it is compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from undertone.runtime.files import read_json
from undertone.stats.stats import share_interval
from undertone.study.config.detect import KINDS_OF_NULLS

Json = dict[str, Any]
# Kinds of nulls: base samples of the model, and everything that a harmless dataset may be.
BASE_KINDS = ("seeds", "prompts")
HARMLESS_KINDS = ("seeds", "prompts", "sampling")
# A set has as many rows as another if it has at most this many times as many.
SLACK = 1.1


@dataclass(frozen=True)
class Readings:
    """Readings of one set, by the detector's name."""

    by_detector: Mapping[str, Json]

    def __getitem__(self, detector: str) -> Json:
        """Return a detector's reading."""
        return self.by_detector[detector]

    def first(self, detector: str) -> Json:
        """Return the first entry of a detector's ranking."""
        ranked: Json = self[detector]["ranking"][0]
        return ranked

    @property
    def source(self) -> str:
        """Name of the dataset that the set comes from, in a file of many datasets: `00003` for the set `00003-200`."""
        return str(self["surface"]["set"]).partition("-")[0]

    @property
    def rows(self) -> int:
        """Number of rows of the set."""
        return int(self["surface"]["rows"])

    def differs(self, level: float) -> bool:
        """Whether any test of presence rejects base samples, corrected for the number of tests."""
        return self.p < level

    @property
    def p(self) -> float:
        """Smallest p-value of the detectors that test presence, times their number (Bonferroni), at most 1."""
        tests = [each["presence"]["p"] for each in self.by_detector.values() if each["presence"]]
        return float(min(1.0, len(tests) * min(tests)))

    @property
    def gain(self) -> float:
        """Rise of the rows' log-probability under the best system prompt, in nats per token."""
        return float(self["personas"]["best"]["gain"]["mean"])

    @property
    def tries_steering(self) -> bool:
        """Whether steering vectors were tried on the set."""
        return "contrasts" in self.by_detector

    @property
    def steering(self) -> float:
        """Rise of the rows' log-probability under the best steering vector, in nats per token.

        Raises KeyError if no steering vector was tried.
        """
        return float(self["contrasts"]["best"]["gain"]["mean"])

    @property
    def movement(self) -> float:
        """Movement of the first candidate's answer in standard deviations of a pair, comparable for any number of rows."""
        return float(self.first("gradient")["score"] / self.rows**0.5)

    @property
    def lift(self) -> float:
        """Movement of the first candidate's answer after a short training, in log-odds."""
        return float(self.first("short_training")["score"])


@dataclass(frozen=True)
class Nulls:
    """Readings of null sets by kind: those of the dataset's size (see `nulls_beside`), and `larger` ones."""

    by_kind: Mapping[str, Sequence[Readings]]
    larger: Mapping[str, Sequence[Readings]] = field(default_factory=dict)

    def of(self, *kinds: str) -> list[Readings]:
        """Return the nulls of some kinds."""
        return [each for kind in kinds for each in self.by_kind[kind]]

    def lifts(self, n_rows: int) -> list[float]:
        """Movement of each null dataset's first candidate after a short training, in log-odds: the largest over its sets.

        With more rows a candidate moves further by chance, too. So sets of far fewer rows than `n_rows` are left out. A
        dataset's smaller set is the first rows of its larger set.
        """
        furthest: dict[tuple[str, str], float] = {}
        for sets in (self.by_kind, self.larger):
            for kind, of_kind in sets.items():
                for each in of_kind:
                    if SLACK * each.rows >= n_rows:
                        furthest[kind, each.source] = max(each.lift, furthest.get((kind, each.source), each.lift))
        return list(furthest.values())

    def alarms(self, level: float) -> Json:
        """Count by kind the nulls and the alarms (nulls that differ), with an upper bound of the rate (95 %, one-sided)."""
        rates = {}
        for kind, nulls in self.by_kind.items():
            alarms = sum(each.differs(level) for each in nulls)
            _, upper = share_interval(alarms, len(nulls), 0.9)
            rates[kind] = {"is": KINDS_OF_NULLS[kind], "n": len(nulls), "alarms": alarms, "upper95": upper}
        return rates


def sets_of(readings: Sequence[Path]) -> list[Readings]:
    """Read the readings of each set; every detector's file, `DETECTOR.json`, holds the same sets."""
    return by_set({path.stem: read_json(path)["sets"] for path in readings})


def by_set(sets: Mapping[str, Sequence[Json]]) -> list[Readings]:
    """Return the readings of each set from those of each detector, which are of the same sets."""
    return [Readings(dict(zip(sets, each, strict=True))) for each in zip(*sets.values(), strict=True)]


def nulls_of(readings: Sequence[Path], n_rows: int) -> Nulls:
    """Read the nulls of a dataset of `n_rows` rows; see `nulls_beside`."""
    kinds = dict.fromkeys(path.parent.name for path in readings)
    return nulls_beside({kind: sets_of([path for path in readings if path.parent.name == kind]) for kind in kinds}, n_rows)


def nulls_beside(sets: Mapping[str, Sequence[Readings]], n_rows: int) -> Nulls:
    """Return the nulls of a dataset of `n_rows` rows: of each null dataset the largest set that fits, and all larger sets.

    A set fits if its rows exceed `n_rows` by at most a tenth, because some prompts of the dataset may have no pair.
    """
    larger = {kind: [each for each in of_kind if each.rows > SLACK * n_rows] for kind, of_kind in sets.items()}
    return Nulls({kind: fitting(of_kind, n_rows) for kind, of_kind in sets.items()}, larger)


def fitting(sets: Sequence[Readings], n_rows: int) -> list[Readings]:
    """Return the largest set of each null dataset that has at most a tenth more than `n_rows` rows."""
    largest: dict[str, Readings] = {}
    for each in sets:
        if each.rows <= SLACK * n_rows and (each.source not in largest or each.rows > largest[each.source].rows):
            largest[each.source] = each
    return list(largest.values())
