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
    if len({each["concept"] for each in named}) == 1:
        return TIERS[4]
    return TIERS[3] if named or explained(own, nulls) or steered(own, nulls) else TIERS[2]


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
    """Return what each detector names, if anything: {detector, concept, score, share}.

    A system prompt and the rows' gradient show what wrote the rows; a short training shows an effect. So the short training is
    asked only if the others name nothing.
    """
    if own["surface"]["prompts"] < MIN_PROMPTS:
        return []
    named = by_likelihood(own, nulls, settings)
    if sure(own, "gradient", settings) and own.movement > max(each.movement for each in nulls.of(*nulls.by_kind)):
        named.append({"detector": "gradient", **own.first("gradient")})
    return named or taught(own, nulls, settings)


def by_likelihood(own: Readings, nulls: Nulls, settings: Verdict) -> list[Json]:
    """Return what a steering vector or a system prompt names, whichever explains the rows better."""
    detector = "contrasts" if steered(own, nulls) else "personas"
    if not (sure(own, detector, settings) and agreed(own, own[detector]["best"]["concept"], settings)):
        return []
    if detector == "contrasts":
        return [{"detector": detector, **own.first(detector)}]
    return prompted(own, settings) if explained(own, nulls) else []


def sure(own: Readings, detector: str, settings: Verdict) -> bool:
    """Whether a detector's first candidate comes first in enough bootstrap samples."""
    return bool(own.first(detector)["share"] >= settings.share)


def prompted(own: Readings, settings: Verdict) -> list[Json]:
    """Return what the best system prompt and the first tokens of numbers name, for rows that a system prompt explains.

    First tokens are asked because they tell personas apart. If the two differ, only the one that all detectors together put
    first is kept. If that is a third concept, both are kept, and two different names count as none. First tokens name nothing
    that they do not make likelier, and alone only what the gradient or a short training is among the first to move.
    """
    prompt, tokens = ({"detector": name, **own.first(name)} for name in ("personas", "first_tokens"))
    first = together(own, settings)[0]["concept"]
    if prompt["concept"] == tokens["concept"]:
        return [prompt, tokens] if tokens["score"] > 0 else [prompt]
    if prompt["concept"] == first:
        return [prompt]
    alone = tokens["concept"] == first and tokens["score"] > 0 and agreed(own, first, settings)
    return [tokens] if alone else [prompt, tokens]


def together(own: Readings, settings: Verdict) -> list[Json]:
    """Rank candidates by all detectors together."""
    return combined({name: own[name]["ranking"] for name in RANKERS}, settings.weights.model_dump())


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


def agreed(own: Readings, concept: str, settings: Verdict) -> bool:
    """Whether a concept is among the first candidates by the gradient or a short training; a decoy never is.

    The first are `settings.among`, but never more than half of the candidates: of three, the first three are all.
    Some system prompt explains the rows best even if the teacher had none, and likewise some steering vector. The gradient and
    the short training assume neither. If neither of them moves the concept's answer, the best prompt or vector is no evidence
    of what the teacher was about.
    """
    rankings = [own[name]["ranking"] for name in ("gradient", "short_training")]
    firsts = [each["concept"] for order in rankings for each in order[: min(settings.among, len(order) // 2)]]
    return concept in firsts


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
        rivals = sorted({each["concept"] for each in named})
        which = f"detectors disagree between {' and '.join(rivals)}" if rivals else f"no candidate is named; {nearest(own)}"
        return f"These rows look as if a system prompt or the like had written them ({p}; {rate}); {which}."
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
