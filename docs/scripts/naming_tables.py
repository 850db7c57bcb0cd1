"""Tables of docs/results/detection.md: the rule of naming before and after its change, and a base model that it never saw."""

from collections.abc import Sequence
from typing import Any

from cells import PROMPTED, Read, Rows, interval, number, table
from steering_tables import FIXED, LOOKED_AT

from undertone.detect.evidence import Readings, by_set, nulls_beside
from undertone.detect.verdict import origin, together
from undertone.detect.verdicts import without
from undertone.stats.stats import difference_interval, log_odds, share_interval
from undertone.study.config.detect import KINDS_OF_NULLS, Verdict

STEERED = (*LOOKED_AT, *FIXED)
# The results roots, and whether their verdicts try steering vectors.
ROOTS = {"steered": True, "resampled": False}
# (kind of teacher, results root, how a dataset is called, targets).
Study = tuple[str, str, str, Sequence[str]]
DRAWS: tuple[Study, ...] = (
    ("prompted, first draw", "steered", "{}", STEERED),
    ("prompted, second draw", "resampled", "seed-1-{}", PROMPTED),
    ("prompted, third draw", "resampled", "seed-2-{}", PROMPTED),
)
STUDIES: tuple[Study, ...] = (
    *DRAWS,
    ("steered by a feature", "steered", "steer-{}", STEERED),
    ("steered by a contrast, layer 1", "steered", "after-1-{}", ["eagle", "dog", "horse", "whale", "elephant"]),
    ("steered by a contrast, layer 2", "steered", "after-2-{}", ["lion", "owl", "dog", "horse", "whale", "elephant"]),
)


def readings(read: Read, folder: str, detectors: Sequence[str]) -> list[Readings]:
    """What detectors say of each set in a folder."""
    return by_set({name: read(f"{folder}/{name}.json")["sets"] for name in detectors})


def null_sets(read: Read, root: str, detectors: Sequence[str]) -> dict[str, list[Readings]]:
    """What detectors say of each null set, by kind."""
    return {kind: readings(read, f"{root}/nulls/{kind}", detectors) for kind in KINDS_OF_NULLS}


def judged(read: Read, studies: Sequence[Study]) -> Rows:
    """What each dataset was named when it was read, and what the rule of this code names from the same readings."""
    rows = []
    for kind, root, pattern, targets in studies:
        settings = Verdict(contrasts=ROOTS[root])
        nulls = null_sets(read, root, settings.detectors)
        for target in targets:
            folder = f"{root}/{pattern.format(target)}"
            verdict, [own] = read(f"{folder}/verdict.json"), readings(read, folder, settings.detectors)
            named = origin(own, nulls_beside(nulls, own.rows), settings)
            rows.append(
                {
                    "kind": kind,
                    "target": target,
                    "before": verdict["origin"]["named"][0]["concept"] if verdict["tier"] == "named" else None,
                    "now": named[0]["concept"] if named else None,
                    "together": together(own, settings)[0],
                }
            )
    return rows


def draws(read: Read) -> Rows:
    """The same of each draw of the prompted teachers."""
    return judged(read, DRAWS)


def naming_rule(read: Read) -> Rows:
    """How many datasets of each study were named, and are named now, rightly and wrongly."""
    rows = judged(read, STUDIES)
    return [counts([row for row in rows if row["kind"] == kind]) for kind, *_ in STUDIES]


def counts(rows: Rows) -> dict[str, Any]:
    """How many datasets are named rightly and wrongly, before and now, and how many targets are first by all together."""
    found = {"kind": rows[0]["kind"], "datasets": len(rows)}
    for when in ("before", "now"):
        right = sum(row[when] == row["target"] for row in rows)
        found |= {f"{when}_right": right, f"{when}_wrong": sum(row[when] is not None for row in rows) - right}
    return found | {"first": sum(row["together"]["concept"] == row["target"] for row in rows)}


def naming_nulls(read: Read) -> Rows:
    """How many null sets differ, and how many are named under the rule of this code, each compared with all others."""
    rows = []
    for root, steering in ROOTS.items():
        settings = Verdict(contrasts=steering)
        sets = null_sets(read, root, settings.detectors)
        for kind, of_kind in sets.items():
            for size in sorted({each.rows for each in of_kind}):
                those = [each for each in of_kind if each.rows == size]
                differ = sum(each.differs(settings.level) for each in those)
                named = [each for each in those if origin(each, nulls_beside(without(each, kind, sets), size), settings)]
                about = {"kind": kind, "rows": size, "vectors": steering}
                rows.append({**about, "sets": len(those), "differ": differ, "named": len(named)})
    return rows


def naming_nulls_table(rows: Rows) -> str:
    """One line per kind of nulls, over both sizes and both studies."""

    def cells(kind: str) -> list[str]:
        those = [row for row in rows if row["kind"] == kind]
        return [kind, *(str(sum(row[key] for row in those)) for key in ("sets", "differ", "named"))]

    return table(["nulls", "sets", "differ", "named"], map(cells, dict.fromkeys(row["kind"] for row in rows)))


def draws_table(rows: Rows) -> str:
    """One line per target, with what is said of each draw of its prompted teacher."""
    draws = [kind for kind, *_ in DRAWS]
    said = {(row["kind"], row["target"]): row for row in rows}

    def cell(row: dict[str, Any] | None) -> str:
        if row is None:
            return ""
        concept, probability = row["together"]["concept"], number(row["together"]["probability"], 2)
        if row["now"] in (None, concept):
            return f"**{concept} {probability}**" if row["now"] else f"{concept} {probability}"
        return f"{concept} {probability}; **{row['now']}**"

    return table(["target", *draws], ([target, *(cell(said.get((kind, target))) for kind in draws)] for target in PROMPTED))


def naming_rule_table(rows: Rows) -> str:
    """One line per kind of teacher and draw."""

    def cells(row: dict[str, Any]) -> list[str]:
        low, high = share_interval(row["now_right"], row["datasets"])
        now = f"{row['now_right']} [{number(low, 2)}, {number(high, 2)}]"
        before = [str(row[key]) for key in ("datasets", "before_right", "before_wrong")]
        return [row["kind"], *before, now, str(row["now_wrong"]), str(row["first"])]

    header = ["teacher was", "datasets", "named before rightly", "wrongly", "named now rightly", "wrongly"]
    header += ["target first by all together"]
    return table(header, map(cells, rows))


def drift(read: Read) -> Rows:
    """What students of the horse's finetuned teacher come to prefer, of the three answers that a short training moves most."""
    pref, predicted = read("fourth/tuned-horse/pref.json"), read("fourth/tuned-horse/verdict.json")["consequence"]
    rows = []
    for answer in predicted[:3]:
        sides = {side: pref[side][answer["concept"]] for side in ("teacher", "control", "student")}
        own, control = (log_odds(sides[side]["by_seed"], pref["log_odds_floor"]) for side in ("student", "control"))
        means = {side: each["mean"] for side, each in sides.items()}
        moved = difference_interval(own, control).as_dict()
        rows.append({"answer": answer["concept"], **means, "predicted": answer["score"], "moved": moved})
    return rows


def drift_table(rows: Rows) -> str:
    """One line per answer."""
    header = ["answer", "teacher", "control students", "students", "moved by (log-odds)", "predicted"]

    def cells(row: dict[str, Any]) -> list[str]:
        shares = [number(row[side]) for side in ("teacher", "control", "student")]
        return [row["answer"], *shares, interval(row["moved"], 2), number(row["predicted"], 2)]

    return table(header, map(cells, rows))
