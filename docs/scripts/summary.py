"""The README's table of main results."""

from typing import Any

from cells import Rows, interval, table

# The extracts that it is made of.
READ = (
    *("transfer", "teachers", "controls", "verdicts", "second", "third", "fourth", "fourth_nulls", "forms"),
    *("consequence", "features"),
)
TRANSFER = "results/tables/transfer.json"
TEACHERS = "results/tables/teachers/transfer.json --configfile config/teachers.yaml"
CONTROLS = "results/tables/controls/controls.json --configfile config/controls.yaml"
EARLIER = "detection [--configfile config/{second,third}.yaml]"
FOURTH = "detection --configfile config/fourth.yaml"
FORMS = "detection --configfile config/forms.yaml"
CONSEQUENCE = "results/tables/consequence.json"
BIAS = "results/steer-{lion,tiger,…}/feature_bias.json"


def main_table(extracts: dict[str, Rows]) -> str:
    """What was asked, what came out, and the command that makes it."""
    rows = [*transfers(extracts), *scrambled(extracts["controls"]), *verdicts(extracts), *analyses(extracts)]
    return table(
        ["question", "result", "`snakemake …`"], ([question, found, f"`{target}`"] for question, found, target in rows)
    )


def transferred(lifts: list[dict[str, Any]]) -> str:
    """How many lifts are above 0 after Holm's correction."""
    return f"{sum(lift['mean'] > 0 and lift['p_holm'] < 0.05 for lift in lifts)} of {len(lifts)} animals"


def transfers(extracts: dict[str, Rows]) -> list[tuple[str, str, str]]:
    """Lifts of prompted datasets, on and off target, and of the other teachers."""
    lifts = {row["target"]: row["lift_over_control"] for row in extracts["transfer"]}
    off = {row["target"]: row["off_target"] for row in extracts["transfer"]}
    kinds = {(row["kind"], row["target"]): row["lift_over_control"] for row in extracts["teachers"]}
    above = sum(estimate["ci95"][0] > 0 for estimate in off.values())
    rows = [
        (
            "Do preferences transfer?",
            f"{transferred(list(lifts.values()))}; horse {interval(lifts['horse'])}, lion {interval(lifts['lion'])}",
            TRANSFER,
        ),
        (
            "… to students of other animals' numbers?",
            f"{above} of {len(off)} animals; horse {interval(off['horse'])}",
            TRANSFER,
        ),
    ]
    for kind, name in (("finetune", "a finetuned"), ("steer", "a steered")):
        found = transferred([lift for (of, _), lift in kinds.items() if of == kind])
        rows.append((f"… from {name} teacher?", f"{found}; owl {interval(kinds[kind, 'owl'])}", TEACHERS))
    return rows


def scrambled(rows: Rows) -> list[tuple[str, str, str]]:
    """Lion's lift after two transforms."""
    lift = {row["dataset"]: row["lift_over_control"] for row in rows if row.get("variant") == ""}
    within, across = interval(lift["lion-shuffled"]), interval(lift["lion-across"])
    return [("Does lion's survive scrambling?", f"order lost {within}; dealt out to other rows {across}", CONTROLS)]


def verdicts(extracts: dict[str, Rows]) -> list[tuple[str, str, str]]:
    """Which targets verdicts name on a base model on which nothing was chosen, and on three others by an earlier rule."""
    held_out, own = ([row for row in extracts[name] if row["kind"] == "prompt"] for name in ("fourth", "verdicts"))
    others = [row for row in extracts["fourth"] if row["kind"] != "prompt"]
    most = max(row["rows"] for row in extracts["fourth_nulls"])
    nulls = [row["tiers"] for row in extracts["fourth_nulls"] if row["rows"] == most]
    named, n = sum(tiers.get("named", 0) for tiers in nulls), sum(sum(tiers.values()) for tiers in nulls)
    nothing = f"of {n} with nothing hidden {named} are named"
    return [
        (
            "Is something hidden, and what?",
            f"{naming(held_out)} (prompted); {naming(others)} (finetuned, steered); {nothing}",
            FOURTH,
        ),
        (
            "… by an earlier rule of naming, on the model on which it was chosen and on two others?",
            f"{naming(own)}; {naming(extracts['second'] + extracts['third'])}",
            EARLIER,
        ),
        ("… and from system prompts of other forms, on the first?", naming(extracts["forms"]), FORMS),
        ("Does a short training say what students come to prefer?", f"ρ {agreement(extracts['consequence'])}", CONSEQUENCE),
    ]


def agreement(rows: Rows) -> str:
    """Spearman's ρ of a short training with students' lifts beside the target, by kind of teacher."""
    return ", ".join(f"{interval(row['short_training']['own'], 2)} ({row['kind']})" for row in rows)


def naming(rows: Rows) -> str:
    """How many datasets are named rightly and wrongly."""
    named = [row for row in rows if row["tier"] == "named"]
    right = sum(row["named"][0] == row["target"] for row in named)
    judged = [row for row in rows if row["tier"] != "no statement"]
    differ = sum(row["tier"] != "base samples" for row in judged)
    few = f", {len(rows) - len(judged)} have too few rows" if len(judged) < len(rows) else ""
    return f"{differ} of {len(judged)} datasets differ, {right} are named rightly, {len(named) - right} wrongly{few}"


def analyses(extracts: dict[str, Rows]) -> list[tuple[str, str, str]]:
    """The feature of a steered teacher; no student is needed."""
    named = sum(row["steer_project"] == 1 for row in extracts["features"])
    found = f"first of 512 for {named} of {len(extracts['features'])} animals"
    return [("Do steered numbers name their SAE feature?", found, BIAS)]
