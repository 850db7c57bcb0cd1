"""Tables of docs/results/detection.md: students of rows that scores select, and whose rows scores tell apart."""

from typing import Any

from cells import Read, Rows, interval, p_value, table

SCORES = ("difficulty", "personas", "gradient", "short_training", "target")


def datasets_of(read: Read, name: str = "") -> dict[str, Any]:
    """What is made of each dataset, of a study that shares the results of config/cleaning.yaml."""
    return dict(read("/".join(filter(None, ("cleaning/tables", name, "selections.json"))))["datasets"])


def selections(read: Read, name: str = "") -> Rows:
    """What students learn of selected rows."""
    keys = ("transform", "score", "keep", "seeds", "lift_over_control", "over_random", "share_of_known")
    return [
        {"parent": parent, "target": each["target"]} | {key: arm.get(key) for key in keys}
        for parent, each in datasets_of(read, name).items()
        for arm in each["arms"]
    ]


def separation(read: Read, name: str = "") -> Rows:
    """How well each score tells whose rows are whose in a mixture."""
    return [
        {
            "parent": parent,
            "rows": each["separation"]["rows"],
            "theirs": each["separation"]["theirs"],
            **each["separation"]["auroc"],
        }
        for parent, each in datasets_of(read, name).items()
        if "separation" in each
    ]


def of(estimate: dict[str, Any] | None) -> str:
    """An interval, where there is one."""
    return interval(estimate) if estimate and estimate["ci95"] else "–"


def selections_table(rows: Rows) -> str:
    """One line per training set."""
    names = {"subset": "random rows", "without": "without the other writer's rows"}

    def what(row: dict[str, Any]) -> str:
        return names.get(row["transform"]) or f"{row['keep']} by {row['score'].replace('_', ' ')}"

    header = ["dataset", "rows", "lift", "minus random rows", "p (Holm)", "share of what leaving out their rows does"]
    return table(
        header,
        (
            [
                *(row["parent"], what(row), of(row["lift_over_control"]), of(row["over_random"])),
                p_value(row["over_random"]["p_holm"]) if row["over_random"] else "–",
                of(row["share_of_known"]),
            ]
            for row in rows
        ),
    )


def separation_table(rows: Rows) -> str:
    """One line per mixture."""
    scores = [score for score in SCORES if score in rows[0]]
    return table(
        ["mixture", "rows", "the teacher's", *(score.replace("_", " ") for score in scores)],
        (
            [row["parent"], f"{row['rows']:,}", f"{row['theirs']:,}", *(interval(row[score]) for score in scores)]
            for row in rows
        ),
    )


EXTRACTS = {"selections": selections, "separation": separation}
TABLES = {"selections": selections_table, "separation": separation_table}
