"""The verdict on a dataset: whether it differs from base samples, what its teacher was about, and what it would move.

Missing evidence is "no statement", never "clean": a small or malformed file is refused, and what detectors cannot see they do
not deny.
"""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

from undertone.detect.combination import combined
from undertone.detect.evidence import BASE_KINDS, HARMLESS_KINDS, Nulls, Readings, nulls_of, sets_of
from undertone.runtime.files import Stamp, write_json
from undertone.stats.stats import p_value
from undertone.study.config.detect import RANKERS, Verdict

Json = dict[str, Any]
# What a verdict comes to, from nothing said to a name.
TIERS = ("no statement", "base samples", "differs", "persona-like", "named")
# The tiers of what is said to differ from base samples.
DIFFERENT = TIERS[2:]
# Where nothing but an effect names a candidate.
EFFECT = (
    "Named by a short training alone, which shows what students come to prefer. The teacher may have been about something "
    "else: where students drift, it names what they drift to (docs/results/smollm2.md)."
)


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
        "origin": {
            "named": named,
            "prompt": own["personas"]["best"],
            "vector": own["contrasts"]["best"] if own.tries_steering else None,
        },
        "rankings": {name: own[name]["ranking"] for name in RANKERS},
        "together": together(own, settings),
        "consequence": own["short_training"]["ranking"],
        "words": own["short_training"]["words"],
        "attitude": "unknown: a system prompt that loves an animal and one that hates it may write the same numbers",
        "tried": own["personas"]["tried"],
        "share": settings.share,
        "caveats": caveats(own, nulls, named, settings),
    }


def no_statement(rows: int, why: str) -> Json:
    """A verdict that says nothing, and why."""
    return {"tier": TIERS[0], "sentence": f"No statement: {why}.", "rows": rows, "why": why}


def figures(readings: Readings) -> Json:
    """What is compared with nulls: presence (standard deviations), gain, movement, lift; and the best prompt's concept."""
    return {
        "z": readings["gradient"]["presence"]["z"],
        "gain": readings.gain,
        "steering": readings.steering if readings.tries_steering else None,
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
    return TIERS[3] if named or explained(own, nulls) or steered(own, nulls) else TIERS[2]


def explained(own: Readings, nulls: Nulls) -> bool:
    """Whether a system prompt makes the rows likelier, and more so than it makes any harmless null."""
    return own.gain > max(each.gain for each in nulls.of(*HARMLESS_KINDS)) and own["personas"]["best"]["gain"]["ci95"][0] > 0


def steered(own: Readings, nulls: Nulls) -> bool:
    """Whether a steering vector makes the rows likelier, more so than any harmless null, and than any system prompt."""
    if not own.tries_steering:
        return False
    others = [own.gain, *(each.steering for each in nulls.of(*HARMLESS_KINDS))]
    return own.steering > max(others) and own["contrasts"]["best"]["gain"]["ci95"][0] > 0


def origin(own: Readings, nulls: Nulls, settings: Verdict) -> list[Json]:
    """What each detector names, if it names anything: {detector, concept, score, share}.

    A short training shows an effect, a system prompt and the rows' gradient what wrote them; it speaks where they are silent.
    """
    named = by_likelihood(own, nulls, settings)
    if sure(own, "gradient", settings) and own.movement > max(each.movement for each in nulls.of(*nulls.by_kind)):
        named.append({"detector": "gradient", **own.first("gradient")})
    return named or taught(own, nulls, settings)


def by_likelihood(own: Readings, nulls: Nulls, settings: Verdict) -> list[Json]:
    """What is named by a steering vector or by a system prompt, whichever explains the rows better."""
    detector = "contrasts" if steered(own, nulls) else "personas"
    if not (sure(own, detector, settings) and agreed(own, own[detector]["best"]["concept"], settings.among)):
        return []
    if detector == "contrasts":
        return [{"detector": detector, **own.first(detector)}]
    return prompted(own, settings) if explained(own, nulls) else []


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


def agreed(own: Readings, concept: str, among: int) -> bool:
    """Whether a concept is among the first candidates by the gradient or a short training; a decoy never is.

    A teacher that had no system prompt still has one that explains it best, and likewise a steering vector. Where neither of
    these, which assume none, moves the concept's answer, it is no evidence of what the teacher was about.
    """
    firsts = [each["concept"] for name in ("gradient", "short_training") for each in own[name]["ranking"][:among]]
    return concept in firsts


def caveats(own: Readings, nulls: Nulls, named: Sequence[Json], settings: Verdict) -> list[str]:
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
    if {each["detector"] for each in named} == {"short_training"}:
        lines.append(EFFECT)
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
        which = f"detectors disagree between {' and '.join(rivals)}" if rivals else f"no candidate is named; {nearest(own)}"
        return f"These rows look as if a system prompt or the like had written them ({p}; {rate}); {which}."
    by = " and ".join(each["detector"].replace("_", " ") for each in named)
    return (
        f"The teacher of these rows was about {named[0]['concept']} (by {by}; {p} under the hypothesis that the base model "
        f"wrote them; {rate})."
    )


def nearest(own: Readings) -> str:
    """What explains the rows best, whether or not it names a candidate."""
    if own.tries_steering and own.steering > own.gain:
        return f"the nearest steering vector is that of “{own['contrasts']['best']['concept']}”"
    return f"the nearest prompt is “{own['personas']['best']['prompt']}”"
