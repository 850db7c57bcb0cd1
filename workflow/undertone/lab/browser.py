"""The page of an SAE's features: one self-contained file with a table and a card for each feature."""

from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from undertone.lab.held import features_with_concepts
from undertone.lab.influences import measured
from undertone.lab.one_feature import one_feature
from undertone.lab.other_saes import partners, parts
from undertone.lab.page import rendered, short
from undertone.runtime.files import Stamp, read_json, read_parquet, replacing
from undertone.study.config.lab import Browser

# Figures shown for each feature, in this order. `null`: the column that the figure is compared with. `table`: show it in the
# table too. `wide`: in the table only if there is room.
COLUMNS: list[dict[str, Any]] = [
    {"key": "density", "title": "density", "format": "share", "table": True, "help": "Share of the tokens on which it fires"},
    {"key": "count", "title": "fires on", "format": "count", "help": "Tokens on which it fires"},
    {"key": "max", "title": "max", "format": "number", "help": "Greatest activation"},
    {"key": "mean_active", "title": "mean where it fires", "format": "number", "help": "Mean of the positive activations"},
    {
        "key": "token_entropy",
        "title": "entropy",
        "format": "number",
        "null": "token_entropy_null",
        "table": True,
        "wide": True,
        "help": "Of its activation over token types, in nats: 0 for one type. Chance: as many tokens of the text at random",
    },
    {
        "key": "token_recall",
        "title": "recall of its token",
        "format": "share",
        "help": "Of all places where the token stands that most of its activation falls on, the share where it fires",
    },
    {
        "key": "input_score",
        "title": "input score",
        "format": "share",
        "null": "input_score_null",
        "table": True,
        "wide": True,
        "help": "Share of its greatest activations on one of the 50 tokens that it raises most. Chance: that others raise most",
    },
    {
        "key": "output_score",
        "title": "output score",
        "format": "number",
        "null": "output_score_null",
        "help": "Mean rise, in nats, of the 50 tokens that it raises most, where it is clamped. Chance: of those of others",
    },
    {
        "key": "junk",
        "title": "junk",
        "format": "share",
        "help": "Share of its activation on punctuation, white space and names of roles",
    },
    {"key": "position_mean", "title": "mean position", "format": "number", "help": "Mean position of the tokens it fires on"},
    {"key": "dec_norm", "title": "decoder norm", "format": "number", "help": "Norm of its row of W_dec"},
    {
        "key": "enc_dec_cosine",
        "title": "cos(enc, dec)",
        "format": "number",
        "help": "Cosine of its column of W_enc and its row of W_dec",
    },
]
# Ways to find neighbours.
WAYS = ("decoder", "encoder", "firing")


# Figures of a feature that holds a concept beyond chance: which concept, and how well.
OF_CONCEPTS: list[dict[str, Any]] = [
    {
        "key": "concept",
        "title": "concept",
        "format": "text",
        "table": True,
        "wide": True,
        "help": "The concept of specificity.json that it says best whether a token holds, if it does so beyond chance",
    },
    {
        "key": "concept_f1",
        "title": "F1 for its concept",
        "format": "number",
        "null": "concept_null",
        "help": "Of its best threshold, on half of the text. Chance: the concept shifted along the text",
    },
    {
        "key": "concept_auroc",
        "title": "AUROC for its concept",
        "format": "number",
        "help": "The chance that a token that holds the concept has the higher activation than another; a tie counts half",
    },
]


def write_browser(
    features: Path,
    examples: Path,
    summary: Path,
    metrics: Path,
    neighbours: Path,
    neighbours_summary: Path,
    map_table: Path,
    map_summary: Path,
    neurons: Path,
    neurons_summary: Path,
    units: Path,
    splitting: Path | None,
    wider: dict[str, Path],
    matches: dict[str, Path],
    page: Path,
    settings: Browser,
    pairs: dict[str, dict[str, str]],
    influences: dict[str, str],
    feature: str,
    stamp: Stamp,
) -> str:
    """Write the page; return a message for the log.

    If the SAE has more than `settings.features` features, the page shows those that fire most often, and mostly junk ones
    only after all others. With a `feature`, such as "/17", it shows that one alone, and lies one folder deeper. `influences`
    are the features whose causal effects have been measured. Raises ConfigError if the SAE has no such feature.
    """
    about, every, number = read_json(summary), read_parquet(features), feature[1:]
    table = one_feature(every, int(number), f"features/{number}.html") if number else chosen(every, settings)
    content = page_data(table, read_parquet(examples), about, settings, single=bool(feature))
    content["about"]["warnings"] = [each for each in (about["warning"], read_json(metrics)["warning"]) if each]
    relations = {
        **near(neighbours, neighbours_summary),
        **places(map_table, map_summary),
        **likeness(neurons, neurons_summary),
        **parts(splitting, wider),
        **partners(matches, pairs),
        **measured(features.with_name("influence"), influences, stamp),
    }
    content["about"] |= {key: said for key, (said, _) in relations.items()}
    content["columns"] = [*COLUMNS, *OF_CONCEPTS]
    held = concepts(units)
    for each in content["features"]:
        each |= held.get(each["id"], {})
        each |= {key: own[each["id"]] for key, (_, own) in relations.items() if each["id"] in own}
    text = rendered(Path(__file__).with_suffix(".html"), "SAE features", content)
    with replacing(page) as temporary:
        temporary.write_text(text)
    return f"{len(table)} of {about['d_sae']} features, {len(text) / 1e6:.1f} MB"


def near(neighbours: Path, summary: Path) -> dict[str, tuple[dict[str, Any], dict[int, Any]]]:
    """Return `near`: the bounds of chance of each way, and the neighbours of each feature.

    A feature's neighbours are, by way, lists [neighbour, value], nearest first; `chance` is its own bound for co-firing.
    """
    about = read_json(summary)
    bounds = {way: [short(about[way].get(name)) for name in ("null95", "null95_spread")] for way in WAYS}
    own: dict[int, Any] = {}
    for row in read_parquet(neighbours).iter_rows(named=True):
        of_feature = own.setdefault(row["feature"], {way: [] for way in WAYS})
        of_feature[row["by"]].append([row["neighbour"], short(row["value"])])
        if row["by"] == "firing":
            of_feature["chance"] = short(row["null95"])
    return {"near": (bounds, own)}


def places(map_table: Path, map_summary: Path) -> dict[str, tuple[dict[str, Any], dict[int, Any]]]:
    """Return `at`, a summary of the map and by feature [x, y, cluster], and `row`, by feature its decoder row in base 64."""
    about, table = read_json(map_summary), read_parquet(map_table)
    keys = ("reason", "trust", "trust_chance", "clusters", "noise")
    at = {k: [short(x), short(y), cluster] for k, x, y, cluster in table.select("feature", "x", "y", "cluster").iter_rows()}
    rows = {k: b64encode(np.array(row, np.int8).tobytes()).decode() for k, row in table.select("feature", "row").iter_rows()}
    return {"at": ({key: about.get(key) for key in keys}, at), "row": ({}, rows)}


def likeness(neurons: Path, summary: Path) -> dict[str, tuple[dict[str, Any], dict[int, Any]]]:
    """Return `like`: the bound of |r| by chance, and correlations of each feature.

    These are its neurons [layer, neuron, r], r with its token, and r with a neuron of a rerandomized model.
    """
    own = {
        row["feature"]: {
            "neurons": [[each["layer"], each["neuron"], short(each["r"])] for each in row["neurons"]],
            "token": [row["token"], short(row["token_r"])],
            "rerandomized": short(row["rerandomized_r"]),
        }
        for row in read_parquet(neurons).iter_rows(named=True)
    }
    about = read_json(summary)
    return {"like": ({"null95": short(about.get("null95")), "reason": about["reason"]}, own)}


def concepts(units: Path) -> dict[int, dict[str, Any]]:
    """Return, by feature, the concept that it holds beyond chance and how well, with the keys of `OF_CONCEPTS`."""
    figures = {"f1": "concept_f1", "f1_null": "concept_null", "auroc": "concept_auroc"}
    return {
        row["unit"]: {"concept": row["concept"], **{key: short(row[name]) for name, key in figures.items()}}
        for row in features_with_concepts(units).iter_rows(named=True)
    }


def chosen(table: pl.DataFrame, settings: Browser) -> pl.DataFrame:
    """Return the features that are on the page, sorted by number."""
    is_junk = pl.col("junk").fill_null(1.0) > settings.max_junk
    return table.sort(is_junk, -pl.col("count"), "feature").head(settings.features).sort("feature")


def page_data(
    table: pl.DataFrame, examples: pl.DataFrame, about: dict[str, Any], settings: Browser, single: bool = False
) -> dict[str, Any]:
    """Return the page's data: `about` the SAE and the text, `columns`, token texts (`strings`) and a list of `features`.

    Tokens are indices into `strings`. A feature's `examples` are, by group, lists of [context, position, position of the first
    token shown, tokens, values, gives]. To add a figure, add a key to each feature and an entry to `columns`.
    """
    strings: dict[str, int] = {}

    def index(text: str) -> int:
        return strings.setdefault(text, len(strings))

    def pairs(entries: list[dict[str, Any]], value: str) -> list[list[Any]]:
        return [[index(each["text"]), short(each[value])] for each in entries]

    keys = [key for column in COLUMNS for key in (column["key"], column.get("null")) if key]
    features: dict[int, dict[str, Any]] = {}
    for row in table.iter_rows(named=True):
        features[row["feature"]] = {
            "id": row["feature"],
            "dead": row["dead"],
            "rare": row["rare"],
            **{key: short(row[key]) for key in keys},
            "q": [short(value) for value in row["q"] or []],
            "histogram": row["histogram"],
            "tokens": pairs(row["tokens"], "share"),
            "up": pairs(row["logits_up"], "value"),
            "down": pairs(row["logits_down"], "value"),
            "neuronpedia": row["neuronpedia"],
            "examples": {},
        }
    for row in examples.filter(pl.col("feature").is_in(list(features))).iter_rows(named=True):
        tokens = [index(text) for text in row["tokens"]]
        shown = [row["row"], row["position"], row["start"], tokens, [short(value) for value in row["values"]]]
        gives = [[short(value) for value in row["gives"]]] if row["gives"] is not None else []
        features[row["feature"]]["examples"].setdefault(row["group"], []).append(shown + gives)
    return {
        "about": described(about, len(features), settings, single),
        "columns": COLUMNS,
        "strings": list(strings),
        "features": list(features.values()),
    }


def described(about: dict[str, Any], n: int, settings: Browser, single: bool) -> dict[str, Any]:
    """Return what the page says about the SAE and the text, and what its filters need.

    `root` is the path from the page to the results; the page of a `single` feature lies one folder deeper.
    """
    those = "this one is here" if single else f"the {n:,} that fire most often are here"
    parts = [
        about["model"] or "embedded model",
        about["hook_point"],
        f"{about['architecture']}, L0 {about['l0']:.3g}",
        f"{about['d_sae']:,} features" + (f", of which {those}, the others in features.parquet" if n < about["d_sae"] else ""),
        f"read on {about['tokens']:,} tokens in {about['contexts']:,} contexts",
    ]
    own = {key: about[key] for key in ("tokens", "min_count", "bands", "attributed")}
    return {
        "sentence": " · ".join(parts),
        "max_junk": settings.max_junk,
        "single": single,
        "root": "../.." if single else "..",
        **own,
    }
