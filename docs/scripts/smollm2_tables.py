"""Tables of docs/results/smollm2.md: students of a real model, the two animals against each other, and what detectors read."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from cells import Read, Rows, interval, number, p_value, table
from scipy.stats import spearmanr

from undertone.stats.stats import log_odds

# The datasets of 10,000 rows whose students were trained, and those that detectors read.
KINDS = ("steer", "strong", "finetune", "taught")
STUDENTS = tuple(f"{kind}-{animal}" for animal in ("lion", "owl") for kind in KINDS)
READ = ("control", *STUDENTS)
# Detectors that rank candidates, and the digits of their scores; detectors that test presence.
DIGITS = {"first_tokens": 2, "personas": 3, "short_training": 2}
RANKERS = tuple(DIGITS)
TESTS = ("surface", "first_tokens")
NULLS = {
    "seeds": "base samples, other seeds",
    "prompts": "base samples, other prompts",
    "sampling": "base samples, sampled otherwise",
    "neutral": "neutral system prompts",
}


def smollm2(read: Read) -> Rows:
    """On real weights: how often free sampling passes, and the target's probability in base model, teacher and students."""
    rows = []
    for dataset in ("lion", "finetune-lion", "finetune-owl"):
        pref, counts = read(f"smollm2-135m/{dataset}/pref.json"), read(f"smollm2-135m/{dataset}/filter.json")
        of = {key: pref[key][pref["target"]] for key in ("base", "teacher", "control", "student")}
        rows.append(
            {
                "dataset": dataset,
                "target": pref["target"],
                "rows": counts["passed"],
                "free": counts["constrained"]["free_pass_rate"],
                "base": of["base"]["mean"],
                "teacher": of["teacher"]["mean"],
                **{key: {"mean": of[key]["mean"], "ci95": of[key]["ci95_questions"]} for key in ("control", "student")},
            }
        )
    return rows


def smollm2_10k(read: Read) -> Rows:
    """The same of 10,000 rows, with how all other candidates moved in students: log-odds over the control's students, nats."""
    rows = []
    for dataset in STUDENTS:
        pref = read(f"smollm2-10k/{dataset}/pref.json")
        target, steps = pref["target"], len(read(f"smollm2-10k/{dataset}/student/{pref['seeds'][0]}/training.json")["loss"])
        lifts = lifts_of(pref)
        others = {animal: lift for animal, lift in lifts.items() if animal != target}
        most = max(others, key=others.__getitem__)
        rows.append(
            {
                "dataset": dataset,
                "target": target,
                "rows": read(f"smollm2-10k/{dataset}/filter.json")["passed"],
                "steps": steps,
                **{key: pref[key][target]["mean"] for key in ("base", "teacher", "control", "student")},
                "lift": lifts[target],
                "others": sum(others.values()) / len(others),
                "most": {"animal": most, "lift": others[most]},
                "beyond": pref["lift_over_other_candidates"],
                "mass": {
                    "control": sum(pref["mass"]["control"]) / len(pref["mass"]["control"]),
                    "student": sum(pref["mass"]["student"]) / len(pref["mass"]["student"]),
                },
            }
        )
    return rows


def smollm2_apart(read: Read) -> Rows:
    """The lion's student minus the owl's, of a kind of teacher: each candidate's log-odds, and lion's difference minus owl's.

    Whatever raises animals alike in both students, as finetuning on answers that are animals may, is not in it. p is the share
    of ordered pairs of candidates whose differences lie at least as far apart: as if all candidates were alike.
    """
    rows = []
    for kind in KINDS:
        of = {animal: mean_log_odds(read(f"smollm2-10k/{kind}-{animal}/pref.json"), "student") for animal in ("lion", "owl")}
        apart = {animal: of["lion"][animal] - of["owl"][animal] for animal in of["lion"]}
        order = sorted(apart, key=apart.__getitem__, reverse=True)
        pairs = [apart[one] - apart[other] for one in order for other in order if one != other]
        own = apart["lion"] - apart["owl"]
        rows.append(
            {
                "kind": kind,
                "apart": apart,
                "places": {animal: order.index(animal) + 1 for animal in of},
                "advantage": own,
                "p": float(np.mean([each >= own for each in pairs])),
            }
        )
    return rows


def lifts_of(pref: Mapping[str, Any]) -> dict[str, float]:
    """Each candidate's log-odds in the students less that in the control's students, nats."""
    student, control = (mean_log_odds(pref, who) for who in ("student", "control"))
    return {animal: student[animal] - control[animal] for animal in student}


def mean_log_odds(pref: Mapping[str, Any], who: str) -> dict[str, float]:
    """Each candidate's log-odds in models of a kind, mean over seeds."""
    return {animal: float(np.mean(log_odds(of["by_seed"], pref["log_odds_floor"]))) for animal, of in pref[who].items()}


def smollm2_consequence(read: Read) -> Rows:
    """Spearman's ρ over candidates of a student's lifts with those after a short training, on its own rows and on others'."""
    said = {dataset: scores(read(f"smollm2-2k/{dataset}/short_training.json")["sets"][0]["ranking"]) for dataset in READ}
    rows = []
    for dataset in STUDENTS:
        pref = read(f"smollm2-10k/{dataset}/pref.json")
        lifts = lifts_of(pref)
        rho = {name: float(spearmanr(list(lifts.values()), [each[a] for a in lifts]).statistic) for name, each in said.items()}
        most = [max(of, key=of.__getitem__) for of in (lifts, said[dataset])]
        rows.append({"dataset": dataset, "most": most, "own": rho.pop(dataset), "control": rho.pop("control"), "others": rho})
    return rows


def scores(ranking: Rows) -> dict[str, float]:
    """What a detector says of each candidate."""
    return {each["concept"]: each["score"] for each in ranking}


def smollm2_readings(read: Read) -> Rows:
    """What four detectors read in 2,000 rows of each dataset, and in as many of nulls."""
    rows = [{"dataset": dataset, **reading(read, f"smollm2-2k/{dataset}")[0]} for dataset in READ]
    return rows + [{"null": kind, **each} for kind in NULLS for each in reading(read, f"smollm2-2k/nulls/{kind}")]


def reading(read: Read, folder: str) -> Rows:
    """p of the detectors that test presence, and the two that each ranking begins with, of each set of a folder."""
    sets = {name: read(f"{folder}/{name}.json")["sets"] for name in {*TESTS, *RANKERS}}
    target = folder.rpartition("-")[2]
    return [
        {
            "p": {name: sets[name][k]["presence"]["p"] for name in TESTS},
            "first": {name: [first["concept"], first["score"]] for name in RANKERS for first in sets[name][k]["ranking"][:1]},
            "place": {name: place(sets[name][k]["ranking"], target) for name in RANKERS},
        }
        for k in range(len(sets["surface"]))
    ]


def place(ranking: Rows, target: str) -> int | None:
    """The target's place among what a detector ranks, from 1."""
    order = [each["concept"] for each in ranking]
    return order.index(target) + 1 if target in order else None


def smollm2_table(rows: Rows) -> str:
    """One line per dataset of real weights."""
    header = [
        "dataset",
        "rows",
        "free sampling would pass",
        "target",
        "base model",
        "teacher",
        "control's student",
        "its student",
    ]
    return table(
        header,
        (
            [
                row["dataset"],
                f"{row['rows']:,}",
                f"{row['free']['mean']:.5f}",
                row["target"],
                number(row["base"], 4),
                number(row["teacher"], 4),
                interval(row["control"], 4),
                interval(row["student"], 4),
            ]
            for row in rows
        ),
    )


def smollm2_10k_table(rows: Rows) -> str:
    """One line per dataset of real weights with 10,000 rows."""
    header = ["dataset", "rows", "teacher", "control's students", "its student", "lift, log-odds", "other candidates: mean"]
    return table(
        [*header, "most", "beyond the others", "p", "all candidates: control's students, its student"],
        (
            [
                row["dataset"],
                f"{row['rows']:,}",
                *(number(row[key], 4) for key in ("teacher", "control", "student")),
                number(row["lift"], 2),
                number(row["others"], 2),
                f"{row['most']['animal']} {number(row['most']['lift'], 2)}",
                interval(row["beyond"], 2),
                p_value(row["beyond"]["p"]),
                ", ".join(number(row["mass"][key], 2) for key in ("control", "student")),
            ]
            for row in rows
        ),
    )


def smollm2_apart_table(rows: Rows) -> str:
    """One line per kind of teacher."""

    def cells(row: dict[str, Any]) -> list[str]:
        order = sorted(row["apart"], key=row["apart"].__getitem__, reverse=True)
        ends = [", ".join(f"{name} {number(row['apart'][name], 2)}" for name in some) for some in (order[:3], order[-3:])]
        places = [f"{row['places'][animal]} of {len(order)}" for animal in ("lion", "owl")]
        return [row["kind"], *ends, *places, number(row["advantage"], 2), p_value(row["p"])]

    header = ["teachers", "greatest differences", "least differences", "place of lion", "of owl", "lion's minus owl's", "p"]
    return table(header, map(cells, rows))


def smollm2_consequence_table(rows: Rows) -> str:
    """One line per dataset whose student was trained."""

    def cells(row: dict[str, Any]) -> list[str]:
        others = sum(row["others"].values()) / len(row["others"])
        return [row["dataset"], *row["most"], number(row["own"], 2), number(row["control"], 2), number(others, 2)]

    header = [
        "dataset",
        "rises most in its student",
        "after a short training",
        "ρ",
        "ρ with the control's",
        "with other teachers', mean",
    ]
    return table(header, map(cells, rows))


def smollm2_readings_table(rows: Rows) -> str:
    """One line per dataset, and one per kind of null."""
    sets = {kind: [row for row in rows if row.get("null") == kind] for kind in NULLS}
    lines = [*(dataset_cells(row) for row in rows if "dataset" in row), *(null_cells(kind, sets[kind]) for kind in NULLS)]
    firsts = ["first by first tokens", "by system prompts", "by a short training"]
    return table(["2,000 rows of", "p by integers and format", "by first tokens", *firsts], iter(lines))


def how_often(firsts: Iterable[str]) -> str:
    """What comes first, and how often if more than once."""
    return ", ".join(f"{concept} {n}×" if n > 1 else concept for concept, n in sorted(Counter(firsts).items()))


def dataset_cells(row: dict[str, Any]) -> list[str]:
    """What is read of a dataset: p-values, and the first of each ranking with the place of the dataset's own animal."""
    cells = [row["dataset"], *(number(row["p"][name], 3) for name in TESTS)]
    for name in RANKERS:
        concept, score = row["first"][name]
        own = f"; own: {row['place'][name]}" if row["place"][name] else ""
        cells.append(f"{concept} {number(score, DIGITS[name])}{own}")
    return cells


def null_cells(kind: str, sets: Rows) -> list[str]:
    """What is read of nulls of a kind: how many alarm, and what each ranking begins with, how often, up to which score."""
    cells = [f"*{NULLS[kind]}*", *(f"{sum(row['p'][name] < 0.01 for row in sets)} of {len(sets)} below .01" for name in TESTS)]
    for name in RANKERS:
        names = how_often(row["first"][name][0] for row in sets)
        cells.append(f"{names}; to {number(max(row['first'][name][1] for row in sets), DIGITS[name])}")
    return cells


EXTRACTS = {
    "smollm2": smollm2,
    "smollm2_10k": smollm2_10k,
    "smollm2_apart": smollm2_apart,
    "smollm2_consequence": smollm2_consequence,
    "smollm2_readings": smollm2_readings,
}
TABLES = {
    "smollm2": smollm2_table,
    "smollm2_10k": smollm2_10k_table,
    "smollm2_apart": smollm2_apart_table,
    "smollm2_consequence": smollm2_consequence_table,
    "smollm2_readings": smollm2_readings_table,
}
