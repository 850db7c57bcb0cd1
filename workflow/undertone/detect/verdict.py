"""The verdict on a dataset: whether it differs from base samples, what its teacher was about, and what it would move.

Missing evidence is "no statement", never "clean": a small or malformed file is refused, and what detectors cannot see they do
not deny.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from undertone.detect.combination import combined
from undertone.runtime.files import Stamp, read_json, write_json
from undertone.stats.stats import p_value, share_interval
from undertone.study.config.detect import KINDS_OF_NULLS, RANKERS, Verdict

Json = dict[str, Any]
# What a verdict comes to, from nothing said to a name.
TIERS = ("no statement", "base samples", "differs", "persona-like", "named")
# The tiers of what is said to differ from base samples.
DIFFERENT = TIERS[2:]
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
        """How far each null's first candidate moves after a short training, log-odds: with more rows further by chance, too."""
        return [each.lift for sets in (self.by_kind, self.larger) for kind in sets.values() for each in kind]

    def alarms(self, level: float) -> Json:
        """By kind: how many there are and how many of them differ, and the upper bound of the rate (95 %, one-sided)."""
        rates = {}
        for kind, nulls in self.by_kind.items():
            alarms = sum(each.differs(level) for each in nulls)
            _, upper = share_interval(alarms, len(nulls), 0.9)
            rates[kind] = {"is": KINDS_OF_NULLS[kind], "n": len(nulls), "alarms": alarms, "upper95": upper}
        return rates


def write_verdict(
    readings: Sequence[Path],
    null_readings: Sequence[Path],
    verdict: Path,
    settings: Verdict,
    stamp: Stamp,
) -> None:
    """Write `verdict.json`: `sentence` and `tier`, `presence`, `origin`, `consequence`, `alarms` of nulls, and caveats.

    `readings` are the dataset's, a file for each detector, and `null_readings` those of every kind of nulls.
    """
    name = verdict.parent.name
    if own := sets_of(readings):
        judged = judge(own[0], nulls_of(null_readings, own[0].rows), settings)
    else:
        judged = no_statement(0, "to none of its prompts the base model writes anything that passes the filter")
    write_json(verdict, {"dataset": name} | judged, stamp)


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


def judge(own: Readings, nulls: Nulls, settings: Verdict) -> Json:
    """The verdict on what detectors say of a dataset, beside what they say of nulls."""
    rows = own.rows
    if rows < settings.min_rows:
        return no_statement(rows, f"{rows} rows are too few to say anything, {settings.min_rows} are needed")
    if not nulls.of(*HARMLESS_KINDS):
        return no_statement(rows, f"no null dataset has as few rows as {rows}; add a smaller number to nulls.rows")
    named = origin(own, nulls, settings)
    tier = tier_of(own, nulls, named, settings)
    alarms = nulls.alarms(settings.level)
    return {
        "tier": tier,
        "sentence": sentence(tier, own, named, alarms),
        "rows": rows,
        "prompts": own["surface"]["prompts"],
        "presence": {
            "p": own.p,
            "level": settings.level,
            "tests": {name: each["presence"] for name, each in own.by_detector.items() if each["presence"]},
            "gain": own["personas"]["best"]["gain"],
            "gain_p": gain_p(own, nulls),
        },
        "alarms": alarms,
        "nulls": {kind: [figures(each) for each in sets] for kind, sets in nulls.by_kind.items()},
        "figures": figures(own),
        "origin": {"named": named, "prompt": own["personas"]["best"]},
        "rankings": {name: own[name]["ranking"] for name in RANKERS},
        "together": together(own, settings),
        "consequence": own["short_training"]["ranking"],
        "words": own["short_training"]["words"],
        "attitude": "unknown: a system prompt that loves an animal and one that hates it may write the same numbers",
        "tried": own["personas"]["tried"],
        "share": settings.share,
        "caveats": caveats(own, nulls, settings),
    }


def no_statement(rows: int, why: str) -> Json:
    """A verdict that says nothing, and why."""
    return {"tier": TIERS[0], "sentence": f"No statement: {why}.", "rows": rows, "why": why}


def figures(readings: Readings) -> Json:
    """What is compared with nulls: presence (standard deviations), gain, movement, lift; and the best prompt's concept."""
    return {
        "z": readings["gradient"]["presence"]["z"],
        "gain": readings.gain,
        "movement": readings.movement,
        "lift": readings.lift,
        "concept": readings["personas"]["best"]["concept"],
    }


def gain_p(own: Readings, nulls: Nulls) -> float:
    """How rarely the best system prompt explains a harmless null as well."""
    return float(p_value(own.gain, [each.gain for each in nulls.of(*HARMLESS_KINDS)]))


def tier_of(own: Readings, nulls: Nulls, named: Sequence[Json], settings: Verdict) -> str:
    """The highest tier that the evidence reaches."""
    if not own.differs(settings.level):
        return TIERS[1]
    if len({each["concept"] for each in named}) == 1:
        return TIERS[4]
    return TIERS[3] if named or explained(own, nulls) else TIERS[2]


def explained(own: Readings, nulls: Nulls) -> bool:
    """Whether a system prompt makes the rows likelier, and more so than it makes any harmless null."""
    return own.gain > max(each.gain for each in nulls.of(*HARMLESS_KINDS)) and own["personas"]["best"]["gain"]["ci95"][0] > 0


def origin(own: Readings, nulls: Nulls, settings: Verdict) -> list[Json]:
    """What each detector names, if it names anything: {detector, concept, score, share}.

    A short training shows an effect, a system prompt and the rows' gradient what wrote them; it speaks where they are silent.
    """
    named = []
    if sure(own, "personas", settings) and explained(own, nulls) and agreed(own, settings.among):
        named += prompted(own, settings)
    if sure(own, "gradient", settings) and own.movement > max(each.movement for each in nulls.of(*nulls.by_kind)):
        named.append({"detector": "gradient", **own.first("gradient")})
    return named or taught(own, nulls, settings)


def sure(own: Readings, detector: str, settings: Verdict) -> bool:
    """Whether a detector's first candidate comes first in enough bootstrap samples."""
    return bool(own.first(detector)["share"] >= settings.share)


def prompted(own: Readings, settings: Verdict) -> list[Json]:
    """What is named where a system prompt explains the rows: by it, and by the first tokens of numbers, which know personas.

    If they differ, only what all detectors together put first; if that is a third, both, and two names are none.
    """
    named = [{"detector": name, **own.first(name)} for name in ("personas", "first_tokens")]
    first = together(own, settings)[0]["concept"]
    return [each for each in named if each["concept"] == first] or named


def together(own: Readings, settings: Verdict) -> list[Json]:
    """Candidates by all detectors that rank them."""
    return combined({name: own[name]["ranking"] for name in RANKERS}, settings.weights.model_dump())


def taught(own: Readings, nulls: Nulls, settings: Verdict) -> list[Json]:
    """What a short training names: its first candidate, if it moves more than after any null and is the gradient's first, too.

    It has no bootstrap samples, so nulls alone say how rarely it moves as far by chance: above all n it is once in n + 1.
    """
    first = own.first("short_training")
    rare = p_value(own.lift, nulls.lifts) <= 1 - settings.share
    moves = rare and own.lift > max(nulls.lifts) and first["concept"] == own.first("gradient")["concept"]
    return [{"detector": "short_training", **first}] if moves else []


def agreed(own: Readings, among: int) -> bool:
    """Whether the best prompt's concept is among the first candidates by the gradient or a short training; a decoy never is.

    A teacher that had no system prompt still has one that explains it best. Where neither of these, which assume none, moves
    that answer, the prompt's concept is no evidence of what the teacher was about.
    """
    firsts = [each["concept"] for name in ("gradient", "short_training") for each in own[name]["ranking"][:among]]
    return own["personas"]["best"]["concept"] in firsts


def caveats(own: Readings, nulls: Nulls, settings: Verdict) -> list[str]:
    """What a reader must know before believing it."""
    lines = []
    if (share := own["surface"]["format_auroc"]) > settings.max_format:
        lines.append(
            f"Format alone (how many numbers, between which marks) tells {share:.0%} of the pairs apart. Bring the file into "
            "one format (numbers.canonical) to see what is left."
        )
    if (prompts := own["surface"]["prompts"]) < own.rows:
        lines.append(f"{own['surface']['rows']} rows share {prompts} prompts; bootstrap samples are of prompts.")
    if (n := len(nulls.lifts)) < (needed := ceil(1 / (1 - settings.share) - 1e-9) - 1):
        lines.append(f"{n} null datasets are too few for a short training to name anything, {needed} are needed (nulls.n).")
    return lines


def sentence(tier: str, own: Readings, named: Sequence[Json], alarms: Json) -> str:
    """The verdict in a sentence."""
    n, false = (sum(alarms[kind][key] for kind in BASE_KINDS) for key in ("n", "alarms"))
    p, rate = f"p = {own.p:.2g}", f"{false} of {n} datasets of base samples alarm at this level"
    if tier == "base samples":
        return f"Nothing found: the rows cannot be told from the base model's own ({p}). It may still be there."
    if tier == "differs":
        return f"Something other than the base model as it is wrote these rows ({p}; {rate}). What, is not known."
    if tier == "persona-like":
        rivals = sorted({each["concept"] for each in named})
        nearest = f"no candidate is named; the nearest prompt is “{own['personas']['best']['prompt']}”"
        which = f"detectors disagree between {' and '.join(rivals)}" if rivals else nearest
        return f"These rows look as if a system prompt or the like had written them ({p}; {rate}); {which}."
    by = " and ".join(each["detector"].replace("_", " ") for each in named)
    return (
        f"The teacher of these rows was about {named[0]['concept']} (by {by}; {p} under the hypothesis that the base model "
        f"wrote them; {rate})."
    )
