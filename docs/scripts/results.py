"""The tables of docs/results/ and of the README: `python docs/scripts/results.py` writes them from docs/results/data/.

`python docs/scripts/results.py --extract RESULTS --commit COMMIT --date DATE [TABLE …]` first makes the extracts anew from the
results root of a finished study: the run's figures, unrounded, and no more of them than the tables show.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dose_tables
import geometry_tables
import naming_tables
import pair_tables
import prompt_tables
import selection_tables
import smollm2_tables
import smollm2_verdicts
import space_tables
import steering_tables
import vector_tables
from cells import PROMPTED, Rows, interval, number, p_value, table, whole
from extracts import ENTANGLED, METRICS, MODELS, SIZES, TAUGHT, extract
from summary import READ, main_table

DOCS = Path(__file__).parents[1]
PAGES = (
    DOCS / "results/index.md",
    DOCS / "results/analyses.md",
    DOCS / "results/detection.md",
    DOCS / "results/smollm2.md",
    DOCS / "laboratory.md",
    DOCS / "vectors.md",
    DOCS / "universality.md",
    DOCS / "geometry.md",
    DOCS.parent / "README.md",
)
DATA = DOCS / "results/data"


def transfer_table(rows: Rows) -> str:
    """One line per animal, the largest lift first."""
    header = ["target", "teacher", "passing rows", "control students", "its students", "lift", "p (Holm)", "other datasets"]
    rows = sorted(rows, key=lambda row: -row["lift_over_control"]["mean"])
    return table(
        header,
        (
            [
                row["target"],
                number(row["teacher"], 2),
                f"{row['passed']:,}",
                number(row["control"]),
                number(row["student"]),
                interval(row["lift_over_control"]),
                p_value(row["lift_over_control"]["p_holm"]),
                interval(row["off_target"]),
            ]
            for row in rows
        ),
    )


def teachers_table(rows: Rows) -> str:
    """Animals by kinds of teachers."""

    def cell(target: str, kind: str) -> str:
        lift = next(row for row in rows if (row["target"], row["kind"]) == (target, kind))["lift_over_control"]
        return interval(lift) + ("" if lift["p_holm"] < 0.05 and lift["mean"] > 0 else " †")

    kinds = ["prompt", "steer", "finetune"]
    return table(["target", *kinds], ([target, *(cell(target, kind) for kind in kinds)] for target in TAUGHT))


def controls_table(rows: Rows) -> str:
    """Lifts, then differences of lifts."""

    def name(row: dict[str, str]) -> str:
        return f"`{row['dataset']}`" + (", students of the other model" if row["variant"] == "cross" else "")

    def cells(label: str, against: str, estimate: dict[str, Any]) -> list[str]:
        return [label, against, interval(estimate), p_value(estimate["p"]), p_value(estimate["p_holm"])]

    return table(
        ["lift of lion", "over the students of", "mean and 95 % interval", "p", "p (Holm)"],
        (
            cells(name(row), f"`{row['against']}`", row["lift_over_control"])
            if "dataset" in row
            else cells(" − ".join(map(name, row["of"])), "", row["difference"])
            for row in rows
        ),
    )


def sweeps_table(rows: Rows) -> str:
    """Lion's and tiger's lifts by the students' setting."""
    own = {"rows": "all", "rank": "8"}
    return table(
        ["setting", "lion", "tiger"],
        (
            [
                f"{value or own[key]} rows" if key == "rows" else f"rank {value or own[key]}",
                *(
                    interval(row["lift_over_control"])
                    for row in rows
                    for target in ("lion", "tiger")
                    if (row["key"], row["value"], row["target"]) == (key, value, target)
                ),
            ]
            for key, values in SIZES.items()
            for value in values
        ),
    )


def losses_table(rows: Rows) -> str:
    """Models by the two datasets; the last line is the base model's own loss."""
    found = {(row["model"], row["target"]): row for row in rows}
    pair = ("lion", "tiger")
    shown = [[MODELS[name], *(interval(found[name, target]["over_base_allowed"]) for target in pair)] for name in MODELS]
    base = ["base model, nats per token", *(number(found["base", target]["loss_allowed"]["mean"]) for target in pair)]
    return table(["model", "lion, minus base", "tiger, minus base"], iter([*shown, base]))


def identity_table(rows: Rows) -> str:
    """Analyses by how often the target comes first and its mean rank."""
    return table(
        ["analysis", "candidates", "target first", "mean rank", "first, centred", "mean rank, centred", "p"],
        (
            [
                (METRICS | ENTANGLED)[row["metric"]],
                f"{row['animals']}",
                f"{row['raw']['first']} of {row['datasets']}",
                number(row["raw"]["mean_rank"], 1),
                f"{row['centred']['first']}",
                number(row["centred"]["mean_rank"], 1),
                p_value(row["raw"]["p"]),
            ]
            for row in rows
        ),
    )


def features_table(rows: Rows) -> str:
    """Ranks of the animals' features among all of the SAE's; a bias that is 0 has no rank of its own."""

    def steered(row: dict[str, Any], mode: str) -> str:
        return whole(row[f"steer_{mode}"]) if row[f"steer_{mode}_bias"] else "0"

    return table(
        ["target", "steered: `project`", "steered: `replace`", "prompted: `project`", "prompted: `replace`", "prompted: score"],
        (
            [
                row["target"],
                *(steered(row, mode) for mode in ("project", "replace")),
                *(whole(row[f"prompt_{key}"]) for key in ("project", "replace", "score")),
            ]
            for row in rows
        ),
    )


def residual_table(rows: Rows) -> str:
    """The target's lift and rank by where the bias acts."""

    def cells(target: str, layer: int | None) -> list[str]:
        row = next(row for row in rows if (row["target"], row["layer"]) == (target, layer))
        return [interval(row["lift_over_control"]), whole(row["rank"])]

    return table(
        ["target", "layer 0: lift", "rank of 24", "all layers: lift", "rank of 24"],
        ([target, *cells(target, 0), *cells(target, None)] for target in PROMPTED),
    )


def presence_table(rows: Rows) -> str:
    """Three tests of presence by dataset."""
    return table(
        ["dataset", "score at layer 0: F", "p", "tokens: z² over its null", "p", "feature bias: gain on held-out rows"],
        (
            [
                row["dataset"],
                number(row["score"]["f"], 1),
                p_value(row["score"]["p"]),
                number(row["tokens"]["mean_z2"], 2),
                p_value(row["tokens"]["p"]),
                interval(row["gain"]),
            ]
            for row in rows
        ),
    )


def others_table(rows: Rows) -> str:
    """Agreement of teachers and ranks in the lens."""
    return table(
        ["target", "correlation of the two teachers' gains", "rank in the lens, student", "rank, control student"],
        ([row["target"], interval(row["agreement"], 2), whole(row["lens"]), whole(row["lens_control"])] for row in rows),
    )


def verdict_cells(row: dict[str, Any]) -> list[str]:
    """What a verdict says, and the places of the target."""
    if row["tier"] == "no statement":
        return [f"{row['rows']:,}", "–", row["tier"], *["–"] * 8]
    named = " and ".join(dict.fromkeys(row["named"])) + f" (by {' and '.join(row['by'])})" if row["tier"] == "named" else "–"
    named = named.replace("_", " ")
    places = ["–" if row[f"{name}_rank"] is None else f"{row[f'{name}_rank']:g}" for name in PLACES]
    return [f"{row['rows']:,}", number(row["presence"], 1), row["tier"], named, row["best"], *places]


PLACES = {
    "personas": "place by gain",
    "gradient": "by gradient",
    "short_training": "by short training",
    "first_tokens": "by first tokens",
    "together": "by all together",
    "word": "among words",
}
VERDICT = ["rows", "presence (sd)", "tier", "named", "best system prompt is about", *PLACES.values()]


def verdicts_table(rows: Rows) -> str:
    """One line per dataset."""
    return table(["teacher", "target", *VERDICT], ([row["kind"], row["target"], *verdict_cells(row)] for row in rows))


def second_table(rows: Rows) -> str:
    """One line per dataset of another base model."""
    return table(["target", *VERDICT], ([row["target"], *verdict_cells(row)] for row in rows))


def apart_table(rows: Rows) -> str:
    """One line per kind of teacher."""

    def cell(row: dict[str, Any]) -> str:
        low, high = row["ci95"]
        return f"{number(row['auroc'])} [{number(low)}, {number(high)}]"

    return table(
        ["teacher", "datasets", "null datasets of base samples", "AUROC"],
        ([row["kind"], str(row["n"]), str(row["nulls"]), cell(row)] for row in rows),
    )


def nulls_table(rows: Rows) -> str:
    """What is said of nulls."""
    tiers = ["base samples", "differs", "persona-like", "named"]
    return table(
        ["nulls", "rows", *tiers],
        ([row["kind"], f"{row['rows']:,}", *(str(row["tiers"].get(tier, 0)) for tier in tiers)] for row in rows),
    )


def consequence_table(rows: Rows) -> str:
    """Spearman's correlations of predictions with lifts."""
    keys = ("own", "other", "difference")
    return table(
        ["teacher", "datasets", "prediction by", "with its own lifts", "with other datasets' lifts", "difference"],
        (
            [row["kind"], str(row["datasets"]), name.replace("_", " "), *(interval(row[name][key], 2) for key in keys)]
            for row in rows
            for name in ("short_training", "gradient", "personas", "first_tokens")
        ),
    )


def power_table(rows: Rows) -> str:
    """One line per size and share."""

    def cell(row: dict[str, Any], key: str) -> str:
        low, high = row[f"{key}_ci95"]
        return f"{row[key]} of {row['n']} [{number(low, 2)}, {number(high, 2)}]"

    keys = ("differs", "named", "right", "first_three")
    return table(
        ["rows", "share of the dataset", "differ", "named", "named rightly", "target among three"],
        ([f"{row['rows']:,.0f}", number(row["share"], 2), *(cell(row, key) for key in keys)] for row in rows),
    )


def detectors_table(rows: Rows) -> str:
    """One line per kind of teacher and detector."""

    def cells(row: dict[str, Any]) -> list[str]:
        seen = f"{row['present']} of {row['tested']}" if row["tested"] else "–"
        if row["mean_place"] is None:
            return [*["–"] * 3, seen]
        low, high = row["first_ci95"]
        first = f"{row['first']} of {row['n']} [{number(low, 2)}, {number(high, 2)}]"
        return [number(row["mean_place"], 1), first, str(row["among_three"]), seen]

    return table(
        ["teacher", "detector", "mean place of the target", "first", "among three", "differ, p < .01"],
        ([row["kind"], row["detector"].replace("_", " "), *cells(row)] for row in rows),
    )


def words_table(rows: Rows) -> str:
    """One line per dataset."""
    header = ["target", "rows", "words", "place by system prompts", "the best of them", "place by short training"]
    return table(
        header,
        (
            [
                *(row["target"], f"{row['rows']:,}", str(row["words"]), str(row["place"]), f'"{row["best"]}"'),
                str(row["word_rank"] or "–"),
            ]
            for row in rows
        ),
    )


def quality_table(rows: Rows) -> str:
    """One line per model and kind of text."""
    header = ["SAE of", "on", "tokens (left out)", "dead", "explained variance", "of as many principal components"]
    return table(
        [*header, "loss (nats per token): model", "SAE spliced in", "mean instead", "loss recovered"],
        (
            [
                row["model"],
                row["read"],
                f"{row['tokens']:,} ({row['outliers']:,})",
                f"{number(100 * row['dead'], 0)} %",
                number(row["explained_variance"]),
                number(row["pca"]["explained_variance"]),
                *(number(row["loss"][way], 2) for way in ("plain", "spliced", "mean")),
                number(row["loss_recovered"]),
            ]
            for row in rows
        ),
    )


def sae_table(rows: Rows) -> str:
    """One line per figure of all features."""
    [row] = rows
    scores = {
        "median token entropy, nats": "token_entropy",
        "mean input score": "input_score",
        "mean output score, nats": "output_score",
    }
    lines = [
        ["features; tokens read", f"{row['d_sae']}; {row['tokens']:,}", "–"],
        ["dead", f"{row['dead']}", "–"],
        [f"fire on fewer than {row['min_count']} tokens", f"{row['rare']}", "–"],
        ["mostly on junk", f"{row['junk']}", "–"],
        ["alive, and fire wherever their commonest token stands", f"{row['always']}", "–"],
        *([name, number(row[key], 2), number(row[f"{key}_null"], 2)] for name, key in scores.items()),
    ]
    return table(["", "SAE", "by chance"], iter(lines))


def ten_features_table(rows: Rows) -> str:
    """One line per feature."""

    def code(*tokens: str) -> str:
        shown = "".join(tokens).replace("\n", "↵").replace("|", "¦").replace("`", "ˋ")
        return f"`{shown.replace(' ', '·')}`"

    def example(row: dict[str, Any]) -> str:
        tokens, peak = row["example"], row["peak"]
        return code(*tokens[max(0, peak - 6) : peak], "«", tokens[peak], "»", *tokens[peak + 1 : peak + 4])

    header = ["feature", "density", "fires on", "entropy (chance)", "recall", "raises", "output score (chance)"]
    return table(
        [*header, "greatest activation"],
        (
            [
                str(row["feature"]),
                f"{number(100 * row['density'], 2)} %",
                " ".join(map(code, row["tokens"])),
                f"{number(row['token_entropy'], 2)} ({number(row['token_entropy_null'], 2)})",
                number(row["token_recall"], 2),
                " ".join(map(code, row["raises"])),
                f"{number(row['output_score'], 2)} ({number(row['output_score_null'], 2)})",
                example(row),
            ]
            for row in rows
        ),
    )


TABLES: dict[str, Callable[[Rows], str]] = {
    "transfer": transfer_table,
    "teachers": teachers_table,
    "controls": controls_table,
    "sweeps": sweeps_table,
    "losses": losses_table,
    "identity": identity_table,
    "features": features_table,
    "residual": residual_table,
    "presence": presence_table,
    "others": others_table,
    "verdicts": verdicts_table,
    "nulls": nulls_table,
    "second": second_table,
    "third": second_table,
    "fourth": verdicts_table,
    "fourth_nulls": nulls_table,
    "drift": naming_tables.drift_table,
    "naming_rule": naming_tables.naming_rule_table,
    "draws": naming_tables.draws_table,
    "naming_nulls": naming_tables.naming_nulls_table,
    "apart": apart_table,
    "forms": verdicts_table,
    "consequence": consequence_table,
    "power": power_table,
    "detectors": detectors_table,
    "words": words_table,
    "sae": sae_table,
    "ten_features": ten_features_table,
    "smollm2_quality": quality_table,
    "smollm2_sae": sae_table,
    "smollm2_features": ten_features_table,
    **dose_tables.TABLES,
    **vector_tables.TABLES,
    **pair_tables.TABLES,
    **space_tables.TABLES,
    **steering_tables.TABLES,
    **prompt_tables.TABLES,
    **selection_tables.TABLES,
    **geometry_tables.TABLES,
    **smollm2_tables.TABLES,
    **smollm2_verdicts.TABLES,
}


def filled(page: str, data: Path) -> str:
    """The page with each table between its markers made anew. Raises ValueError for a marker without an end."""
    extracts = {name: json.loads((data / f"{name}.json").read_text()) for name in TABLES}
    tables = {name: show(extracts[name]["rows"]) + source([extracts[name]]) for name, show in TABLES.items()}
    tables["main"] = main_table({name: extracts[name]["rows"] for name in READ}) + source([extracts[name] for name in READ])
    for name, made in tables.items():
        start, end = f"<!-- table: {name} -->\n", "<!-- end of table -->\n"
        before, found, rest = page.partition(start)
        _, closed, after = rest.partition(end)
        if found and not closed:
            raise ValueError(f"the table {name!r} has no end: expected a line {end!r}")
        page = f"{before}{start}{made}{end}{after}" if found else page
    return page


def source(extracts: Sequence[dict[str, Any]]) -> str:
    """The run that the extracts are of."""
    dates = ", ".join(sorted({extract["date"] for extract in extracts}))
    commits = ", ".join(sorted({f"`{extract['commit']}`" for extract in extracts}))
    return f"\nRun of {dates}, reported at {commits}.\n"


def main() -> None:
    """Make the extracts where asked, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extract", type=Path, metavar="RESULTS", help="results root of a finished study")
    parser.add_argument("--commit", help="the commit that reports the run")
    parser.add_argument("--date", help="the date of the run")
    parser.add_argument("names", nargs="*", metavar="TABLE", help="tables to extract; all, if none is named")
    args = parser.parse_args()
    if args.extract:
        if not (args.commit and args.date):
            parser.error("--extract needs --commit and --date")
        extract(args.extract, DATA, args.commit, args.date, args.names)
    for page in PAGES:
        page.write_text(filled(page.read_text(), DATA))


if __name__ == "__main__":
    main()
