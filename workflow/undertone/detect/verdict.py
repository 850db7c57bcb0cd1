"""The verdict on a dataset: whether it differs from base samples, what its teacher was about, and what it would move.

Missing evidence gives "no statement", never "clean": small or malformed files are refused, and detectors do not rule out what
they cannot see.
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
# Tiers of verdicts, from nothing said to a name.
TIERS = ("no statement", "base samples", "differs", "persona-like", "named")
# Tiers of datasets that are said to differ from base samples.
DIFFERENT = TIERS[2:]
# With fewer prompts, whatever is first on the rows is first in most bootstrap samples, which are of prompts.
MIN_PROMPTS = 20
# Caveat if only a short training, which shows an effect, names a candidate.
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

    `readings` are the dataset's, one file per detector; `null_readings` are those of every kind of nulls.
    """
    name = verdict.parent.name
    if own := sets_of(readings):
        judged = judge(own[0], nulls_of(null_readings, own[0].rows), settings)
    else:
        judged = no_statement(0, "to none of its prompts the base model writes anything that passes the filter")
    write_json(verdict, {"dataset": name} | judged, stamp)


def judge(own: Readings, nulls: Nulls, settings: Verdict) -> Json:
    """Judge a dataset by its readings and those of nulls."""
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
        "probability": settings.probability,
        "caveats": caveats(own, nulls, named, settings),
    }


def no_statement(rows: int, why: str) -> Json:
    """Return a verdict that says nothing, with the reason."""
    return {"tier": TIERS[0], "sentence": f"No statement: {why}.", "rows": rows, "why": why}


def figures(readings: Readings) -> Json:
    """Return what is compared with nulls: presence (z), gains, movement and lift; and the best prompt's concept."""
    return {
        "z": readings["gradient"]["presence"]["z"],
        "gain": readings.gain,
        "steering": readings.steering if readings.tries_steering else None,
        "movement": readings.movement,
        "lift": readings.lift,
        "concept": readings["personas"]["best"]["concept"],
    }


def gain_p(own: Readings, nulls: Nulls) -> float:
    """Return the p-value of the gain: how rarely the best system prompt explains a harmless null as well."""
    return float(p_value(own.gain, [each.gain for each in nulls.of(*HARMLESS_KINDS)]))


def tier_of(own: Readings, nulls: Nulls, named: Sequence[Json], settings: Verdict) -> str:
    """Return the highest tier that the evidence reaches."""
    if not own.differs(settings.level):
        return TIERS[1]
    if named:
        return TIERS[4]
    return TIERS[3] if explained(own, nulls) or steered(own, nulls) else TIERS[2]


def explained(own: Readings, nulls: Nulls) -> bool:
    """Whether the best system prompt's gain is above 0 (95 % interval) and above that of every harmless null."""
    return own.gain > max(each.gain for each in nulls.of(*HARMLESS_KINDS)) and own["personas"]["best"]["gain"]["ci95"][0] > 0


def steered(own: Readings, nulls: Nulls) -> bool:
    """Whether the best steering vector's gain is above 0 (95 % interval) and above the gain of any system prompt.

    It must also be above that of every harmless null's best steering vector.
    """
    if not own.tries_steering:
        return False
    others = [own.gain, *(each.steering for each in nulls.of(*HARMLESS_KINDS))]
    return own.steering > max(others) and own["contrasts"]["best"]["gain"]["ci95"][0] > 0


def origin(own: Readings, nulls: Nulls, settings: Verdict) -> list[Json]:
    """Return what each detector names, if anything: {detector, concept, score, share}. Nothing is named that does not differ.

    System prompts, steering vectors, first tokens and the rows' gradient show what wrote the rows; a short training shows an
    effect. So the short training is asked only if the others name nothing.
    """
    if not own.differs(settings.level) or own["surface"]["prompts"] < MIN_PROMPTS:
        return []
    first, *others = together(own, settings)
    leads = bool(others) and first["probability"] > others[0]["probability"]
    named = [
        {"detector": name, **own.first(name)}
        for name in beyond_nulls(own, nulls)
        if leads and first["probability"] >= least(name, settings) and sure_of(own, name, first["concept"], settings)
    ]
    return named or taught(own, nulls, settings)


def least(detector: str, settings: Verdict) -> float:
    """Return how probable by all detectors together a candidate must be if the detector is to name it.

    Steering vectors are none of these detectors. That the others put the same candidate first is then evidence of its own.
    """
    return settings.probability if detector in RANKERS else 0.0


def together(own: Readings, settings: Verdict) -> list[Json]:
    """Rank candidates by all detectors together."""
    return combined({name: own[name]["ranking"] for name in RANKERS}, settings.weights.model_dump())


def beyond_nulls(own: Readings, nulls: Nulls) -> list[str]:
    """Return the detectors of origin whose figure exceeds that of nulls.

    The figure is the gain of a steering vector or a system prompt, whichever explains the rows better, and the gradient's
    movement. First tokens are asked with system prompts, because they read personas, too.
    """
    names = []
    if steered(own, nulls):
        names += ["contrasts"]
    elif explained(own, nulls):
        names += ["personas", "first_tokens"]
    if own.movement > max(each.movement for each in nulls.of(*nulls.by_kind)):
        names += ["gradient"]
    return names


def sure_of(own: Readings, detector: str, concept: str, settings: Verdict) -> bool:
    """Whether a detector puts a concept first in enough bootstrap samples, with a score above 0."""
    first = own.first(detector)
    return bool(first["concept"] == concept and first["share"] >= settings.share and first["score"] > 0)


def taught(own: Readings, nulls: Nulls, settings: Verdict) -> list[Json]:
    """Return what a short training names: its first candidate, if it is also the gradient's and moves further than in any null.

    A short training has no bootstrap samples, so only nulls say how rarely a candidate moves as far by chance: once in n + 1 if
    it is above all n. This p-value must be at most 1 − `settings.share`.
    """
    first = own.first("short_training")
    lifts = nulls.lifts(own.rows)
    rare = p_value(own.lift, lifts) <= 1 - settings.share + 1e-9
    moves = rare and own.lift > max(lifts) and first["concept"] == own.first("gradient")["concept"]
    return [{"detector": "short_training", **first}] if moves else []


def caveats(own: Readings, nulls: Nulls, named: Sequence[Json], settings: Verdict) -> list[str]:
    """Return what a reader must know before believing the verdict."""
    lines = []
    if (share := own["surface"]["format_auroc"]) > settings.max_format:
        lines.append(
            f"Format alone (how many numbers, between which marks) tells which of a pair is the dataset's in {share:.0%} of "
            "cases, where guessing does in 50 %. Bring the file into one format (numbers.canonical) to see what is left."
        )
    if (available := own["surface"]["available"]) > own.rows:
        lines.append(f"{own.rows} of {available} rows were read, drawn at random (detectors.rows).")
    if (prompts := own["surface"]["prompts"]) < MIN_PROMPTS:
        lines.append(f"Nothing can be named from rows of {prompts} prompts: bootstrap samples are of prompts.")
    elif prompts < own.rows:
        lines.append(f"{own['surface']['rows']} rows share {prompts} prompts; bootstrap samples are of prompts.")
    if (n := len(nulls.lifts(own.rows))) < (needed := ceil(1 / (1 - settings.share) - 1e-9) - 1):
        lines.append(
            f"{n} null datasets of as many rows are too few for a short training to name anything, {needed} are needed "
            "(nulls.n, nulls.rows)."
        )
    if {each["detector"] for each in named} == {"short_training"}:
        lines.append(EFFECT)
    return lines


def sentence(tier: str, own: Readings, named: Sequence[Json], alarms: Json) -> str:
    """Return the verdict in a sentence."""
    n, false = (sum(alarms[kind][key] for kind in BASE_KINDS) for key in ("n", "alarms"))
    p, rate = f"p = {own.p:.2g}", f"{false} of {n} datasets of base samples alarm at this level"
    if tier == "base samples":
        return f"Nothing found: the rows cannot be told from the base model's own ({p}). It may still be there."
    if tier == "differs":
        return f"Something other than the base model as it is wrote these rows ({p}; {rate}). What, is not known."
    if tier == "persona-like":
        return (
            f"These rows look as if a system prompt or the like had written them ({p}; {rate}); "
            f"no candidate is named; {nearest(own)}."
        )
    by, evidence = " and ".join(each["detector"].replace("_", " ") for each in named), f"{p} under the hypothesis that the "
    if {each["detector"] for each in named} == {"short_training"}:
        return (
            f"Students of these rows come to prefer {named[0]['concept']} (by {by}; {evidence}base model wrote them; {rate}). "
            "What the teacher was about is not shown."
        )
    return f"The teacher of these rows was about {named[0]['concept']} (by {by}; {evidence}base model wrote them; {rate})."


def nearest(own: Readings) -> str:
    """Say what explains the rows best, whether or not it names a candidate."""
    if own.tries_steering and own.steering > own.gain:
        return f"the nearest steering vector is that of “{own['contrasts']['best']['concept']}”"
    return f"the nearest prompt is “{own['personas']['best']['prompt']}”"
