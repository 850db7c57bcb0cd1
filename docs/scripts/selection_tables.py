"""Tables of docs/results/detection.md: students of rows that scores select, and whose rows scores tell apart."""

from typing import Any

from cells import Read, Rows, interval, p_value, table

from undertone.stats.stats import mean_interval

# Targets whose system prompts select rows of the control.
LIKELY = ("horse", "whale", "owl", "lion")
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


def likely(read: Read) -> Rows:
    """What students learn of base samples that a target's system prompt makes likeliest; last the mean over targets."""
    rows = []
    for target in LIKELY:
        arms = {arm["transform"]: arm for arm in datasets_of(read, "selected-control")[f"likely-{target}"]["arms"]}
        rows.append(
            {
                "target": target,
                "random": arms["subset"]["lift_over_control"],
                "likeliest": arms["select"]["lift_over_control"],
                "over_random": arms["select"]["over_random"],
                "seeds": arms["select"]["seeds"],
            }
        )
    keys = ("random", "likeliest", "over_random")
    over_targets = {key: mean_interval([row[key]["mean"] for row in rows]).with_p() for key in keys}
    return [*rows, {"target": None, "seeds": None, **over_targets}]


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


def likely_table(rows: Rows) -> str:
    """One line per target, then the mean over targets."""
    header = ["target", "random base samples", "the likeliest fifth", "minus random", "p", "p (Holm)"]

    def cells(row: dict[str, Any]) -> list[str]:
        more = row["over_random"]
        means = [of(row[key]) for key in ("random", "likeliest", "over_random")]
        return [row["target"] or "mean", *means, p_value(more["p"]), p_value(more["p_holm"]) if row["target"] else "–"]

    return table(header, map(cells, rows))


FINETUNED = "cleaning-finetuned"
EXTRACTS = {
    "selections": selections,
    "separation": separation,
    "selections_finetuned": lambda read: selections(read, FINETUNED),
    "separation_finetuned": lambda read: separation(read, FINETUNED),
    "likely": likely,
}
TABLES = {
    "selections": selections_table,
    "separation": separation_table,
    "selections_finetuned": selections_table,
    "separation_finetuned": separation_table,
    "likely": likely_table,
}
