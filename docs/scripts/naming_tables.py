"""Tables of docs/results/detection.md: the rule of naming before and after its change, and a base model that it never saw."""

from collections.abc import Callable
from typing import Any

import numpy as np
from cells import PROMPTED, Read, Rows, number, table
from scipy.special import logit

from undertone.detect.evidence import SLACK, Nulls, Readings, fitting
from undertone.detect.verdict import origin, together
from undertone.stats.stats import share_interval
from undertone.study.config.detect import DETECTORS, KINDS_OF_NULLS, Verdict

STEERED = ["lion", "eagle", "owl", "dog", "horse", "whale", "elephant"]
# (kind of teacher, results root, how a dataset is called, targets, whether steering vectors are tried).
STUDIES = (
    ("prompted, first draw", "steered", "{}", STEERED, False),
    ("prompted, second draw", "resampled", "seed-1-{}", PROMPTED, False),
    ("prompted, third draw", "resampled", "seed-2-{}", PROMPTED, False),
    ("steered by a feature", "steered", "steer-{}", STEERED, True),
    ("steered by a contrast, layer 1", "steered", "after-1-{}", ["eagle", "dog", "horse", "whale", "elephant"], True),
    ("steered by a contrast, layer 2", "steered", "after-2-{}", ["lion", "owl", "dog", "horse", "whale", "elephant"], True),
)


def readings(read: Read, folder: str, detectors: tuple[str, ...]) -> list[Readings]:
    """What detectors say of each set in a folder."""
    sets = [read(f"{folder}/{name}.json")["sets"] for name in detectors]
    return [Readings(dict(zip(detectors, each, strict=True))) for each in zip(*sets, strict=True)]


def nulls_for(sets: dict[str, list[Readings]], n_rows: int) -> Nulls:
    """The nulls of a dataset of so many rows."""
    larger = {kind: [each for each in of_kind if each.rows > SLACK * n_rows] for kind, of_kind in sets.items()}
    return Nulls({kind: fitting(of_kind, n_rows) for kind, of_kind in sets.items()}, larger)


def naming_rule(read: Read) -> Rows:
    """What each dataset was named when it was read, and what the rule of this code names from the same readings."""
    rows, settings = [], Verdict()
    for kind, root, pattern, targets, steering in STUDIES:
        detectors = (*DETECTORS, "contrasts") if steering else DETECTORS
        null_sets = {name: readings(read, f"{root}/nulls/{name}", detectors) for name in KINDS_OF_NULLS}
        for target in targets:
            folder = f"{root}/{pattern.format(target)}"
            verdict, [own] = read(f"{folder}/verdict.json"), readings(read, folder, detectors)
            named = origin(own, nulls_for(null_sets, own.rows), settings)
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
    """The same of prompted teachers alone."""
    return [row for row in naming_rule(read) if row["kind"].startswith("prompted")]


def naming_nulls(read: Read) -> Rows:
    """How many null sets differ, and how many are named under the rule of this code, each compared with all others."""
    rows, settings = [], Verdict()
    for root, steering in (("resampled", False), ("steered", True)):
        detectors = (*DETECTORS, "contrasts") if steering else DETECTORS
        sets = {name: readings(read, f"{root}/nulls/{name}", detectors) for name in KINDS_OF_NULLS}
        for kind, of_kind in sets.items():
            for size in sorted({each.rows for each in of_kind}):
                those = [each for each in of_kind if each.rows == size]
                differ = sum(each.differs(settings.level) for each in those)
                named = [each for each in those if origin(each, nulls_for(without(sets, kind, each), size), settings)]
                about = {"kind": kind, "rows": size, "vectors": steering}
                rows.append({**about, "sets": len(those), "differ": differ, "named": len(named)})
    return rows


def without(sets: dict[str, list[Readings]], kind: str, own: Readings) -> dict[str, list[Readings]]:
    """The null sets without those of one null dataset."""
    return {name: [each for each in of_kind if name != kind or each.source != own.source] for name, of_kind in sets.items()}


def naming_nulls_table(rows: Rows) -> str:
    """One line per kind of nulls, over both sizes and both studies."""

    def cells(kind: str) -> list[str]:
        those = [row for row in rows if row["kind"] == kind]
        return [kind, *(str(sum(row[key] for row in those)) for key in ("sets", "differ", "named"))]

    return table(["nulls", "sets", "differ", "named"], map(cells, dict.fromkeys(row["kind"] for row in rows)))


def draws_table(rows: Rows) -> str:
    """One line per target, with what is said of each draw of its prompted teacher."""
    draws = [kind for kind, *_ in STUDIES if kind.startswith("prompted")]
    said = {(row["kind"], row["target"]): row for row in rows}

    def cell(row: dict[str, Any] | None) -> str:
        if row is None:
            return ""
        first = f"{row['together']['concept']} {number(row['together']['probability'], 2)}"
        return f"**{first}**" if row["now"] == row["together"]["concept"] else f"{first}; {row['now']}" if row["now"] else first

    return table(["target", *draws], ([target, *(cell(said.get((kind, target))) for kind in draws)] for target in PROMPTED))


def naming_rule_table(rows: Rows) -> str:
    """One line per kind of teacher and draw."""

    def cells(kind: str) -> list[str]:
        those = [row for row in rows if row["kind"] == kind]
        first = sum(row["together"]["concept"] == row["target"] for row in those)
        (before, wrong_before), (now, wrong) = counted(those, "before"), counted(those, "now")
        low, high = share_interval(now, len(those))
        rightly = f"{now} [{number(low, 2)}, {number(high, 2)}]"
        return [kind, str(len(those)), str(before), str(wrong_before), rightly, str(wrong), str(first)]

    header = ["teacher was", "datasets", "named before rightly", "wrongly", "named now rightly", "wrongly"]
    header += ["target first by all together"]
    return table(header, map(cells, dict.fromkeys(row["kind"] for row in rows)))


def counted(rows: Rows, when: str) -> tuple[int, int]:
    """How many datasets are named rightly and wrongly."""
    right = sum(row[when] == row["target"] for row in rows)
    return right, sum(row[when] is not None for row in rows) - right


def fourth(row_of: Callable[[dict[str, Any], str], dict[str, Any]]) -> Callable[[Read], Rows]:
    """Verdicts on the fourth base model, by kind of teacher."""
    four = ["cat", "dog", "eagle", "horse"]
    kinds = (("prompt", "{}", PROMPTED), ("finetune", "tuned-{}", four), ("contrast after layer 1", "after-1-{}", four))

    def rows(read: Read) -> Rows:
        return [
            {"kind": kind, "target": target} | row_of(read(f"fourth/{pattern.format(target)}/verdict.json"), target)
            for kind, pattern, targets in kinds
            for target in targets
        ]

    return rows


def drift(read: Read) -> Rows:
    """What students of the horse's finetuned teacher come to prefer, of the three answers that a short training moves most."""
    pref, predicted = read("fourth/tuned-horse/pref.json"), read("fourth/tuned-horse/verdict.json")["consequence"]
    rows = []
    for answer in predicted[:3]:
        sides = {side: pref[side][answer["concept"]] for side in ("teacher", "control", "student")}
        moved = np.mean(logit(sides["student"]["by_seed"])) - np.mean(logit(sides["control"]["by_seed"]))
        means = {side: each["mean"] for side, each in sides.items()}
        rows.append({"answer": answer["concept"], **means, "predicted": answer["score"], "moved": float(moved)})
    return rows


def drift_table(rows: Rows) -> str:
    """One line per answer."""
    header = ["answer", "teacher", "control students", "students", "moved by (log-odds)", "predicted"]
    cells = ([row["answer"], *(number(row[key]) for key in ("teacher", "control", "student")), *moves(row)] for row in rows)
    return table(header, cells)


def moves(row: dict[str, Any]) -> list[str]:
    """The measured and the predicted movement."""
    return [number(row[key], 2) for key in ("moved", "predicted")]
