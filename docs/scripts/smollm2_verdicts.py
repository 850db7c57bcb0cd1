"""A table of docs/results/smollm2.md: verdicts on a real model's datasets, and what the rows' gradient says in them."""

from typing import Any

from cells import Read, Rows, number, table
from smollm2_tables import NULLS, how_often, place

# Of these the gradient has been read, the last detector that a verdict needs.
JUDGED = ("control", "finetune-lion", "finetune-owl", "steer-lion", "steer-owl")


def smollm2_verdicts(read: Read) -> Rows:
    """The verdict on 2,000 rows of each dataset, and presence and first candidate by the gradient there and in nulls."""
    rows: Rows = []
    for dataset in JUDGED:
        [of] = gradients(read, f"smollm2-2k/{dataset}")
        rows.append({"dataset": dataset, "tier": read(f"smollm2-2k/{dataset}/verdict.json")["tier"], **of})
    return rows + [{"null": kind, **each} for kind in NULLS for each in gradients(read, f"smollm2-2k/nulls/{kind}")]


def gradients(read: Read, folder: str) -> Rows:
    """Of each set of a folder: p and z of presence, the first candidate, its score and its share of bootstrap samples."""
    sets = read(f"{folder}/gradient.json")["sets"]
    return [
        {
            **{key: each["presence"][key] for key in ("p", "z")},
            **{key: each["ranking"][0][key] for key in ("concept", "score", "share")},
            "place": place(each["ranking"], folder.rpartition("-")[2]),
        }
        for each in sets
    ]


def smollm2_verdicts_table(rows: Rows) -> str:
    """One line per dataset, and one per kind of null."""
    header = [
        "2,000 rows of",
        "p by gradient",
        "z",
        "first by gradient, standard errors",
        "in so many bootstraps",
        "verdict",
    ]
    sets = {kind: [row for row in rows if row.get("null") == kind] for kind in NULLS}
    lines = [*(dataset_cells(row) for row in rows if "dataset" in row), *(null_cells(kind, sets[kind]) for kind in NULLS)]
    return table(header, iter(lines))


def dataset_cells(row: dict[str, Any]) -> list[str]:
    """What is read of a dataset."""
    own = f"; own: {row['place']}" if row["place"] else ""
    first = f"{row['concept']} {number(row['score'], 2)}{own}"
    return [row["dataset"], number(row["p"], 3), number(row["z"], 1), first, number(row["share"], 2), row["tier"]]


def null_cells(kind: str, sets: Rows) -> list[str]:
    """What is read of nulls of a kind: how many alarm, the greatest z, what is first how often, up to which score and share."""
    alarms = f"{sum(row['p'] < 0.01 for row in sets)} of {len(sets)} below .01"
    names = how_often(row["concept"] for row in sets)
    greatest = {key: max(row[key] for row in sets) for key in ("z", "score", "share")}
    first = f"{names}; to {number(greatest['score'], 2)}"
    return [f"*{NULLS[kind]}*", alarms, f"to {number(greatest['z'], 1)}", first, f"to {number(greatest['share'], 2)}", ""]


EXTRACTS = {"smollm2_verdicts": smollm2_verdicts}
TABLES = {"smollm2_verdicts": smollm2_verdicts_table}
