"""Tables of docs/universality.md: datasets by the models of config/across.yaml, features and vectors of config/pairs.yaml."""

from typing import Any

from cells import Read, Rows, interval, number, p_value, table

# The comparisons that are shown, and the map of those between models.
SHOWN = {
    ("across", "identity"): "each model its own, as they are",
    ("across", "procrustes"): "**each model its own, one rotation**",
    ("one_dataset_a", "procrustes"): "both models those of a, halves of the rows, one rotation",
    ("one_dataset_b", "procrustes"): "both models those of b, halves of the rows, one rotation",
    ("one_reader_a", None): "a reads those of a and of b",
    ("one_reader_b", None): "b reads those of a and of b",
    ("halves_a", None): "a reads halves of its own",
    ("halves_b", None): "b reads halves of its own",
}
# The pairs, the side b of each, and the measures that are shown of their spaces.
PAIRS = {
    "seeds": "another training of the SAE",
    "layers": "the SAE after layer 2",
    "models": "another base model",
    "untrained": "the model with permuted weights",
}
MEASURES = {"cka": "CKA", "rsa": "RSA", "knn": "mutual k-NN", "procrustes": "Procrustes r²"}
# The pairs of two models, whose layers are compared and in whose other model a vector is added, and the ways.
MODELS = ("models", "untrained")
WAYS = {
    "in_a": "in its own model",
    "turned": "**in b, turned**",
    "own": "b's own contrast, in b",
    "ridge": "in b, through the affine map",
    "identity": "in b, as it is",
}


def across(read: Read) -> Rows:
    """Each comparison around the animals' mean, and as it is."""
    rows = []
    for kind, of in read("pair-models/across.json")["of"].items():
        for comparison, through in SHOWN:
            said = of[comparison] if through is None else of[comparison][through]
            keys = ("same", "other", "advantage", "p", "first")
            shown = {key: said["centred"][key] for key in keys}
            rows.append({"kind": kind, "comparison": comparison, "through": through, **shown, "plain_p": said["plain"]["p"]})
    return rows


def across_table(rows: Rows) -> str:
    """One line per comparison, of both kinds of direction."""

    def cells(row: dict[str, Any]) -> list[str]:
        low, high = row["first"]["ci95"]
        return [
            {"activations": "mean activations", "bias": "one step of a bias"}[row["kind"]],
            SHOWN[row["comparison"], row["through"]],
            f"{number(row['same'], 2)}, {number(row['other'], 2)}",
            interval(row["advantage"], 2),
            p_value(row["p"]),
            f"{row['first']['k']} of {row['first']['n']} [{number(low, 2)}, {number(high, 2)}]",
            p_value(row["plain_p"]),
        ]

    header = ["direction", "who reads what", "cosine of one animal's, of two animals'", "difference", "p", "first"]
    return table([*header, "p, mean not taken off"], map(cells, rows))


def kinds(read: Read) -> Rows:
    """Of each pair and kind of concept how many matches there are, and how alike they lie beside as many others."""
    return [
        {
            "pair": pair,
            "kind": kind,
            "pairs": of["pairs"],
            "random": of["random"] and {key: of["random"][key] for key in MEASURES},
        }
        for pair in PAIRS
        for kind, of in read(f"pair-{pair}/similarity.json")["concepts"].items()
    ]


def kinds_table(rows: Rows) -> str:
    """One line per pair and kind with enough matches to be compared."""

    def cells(row: dict[str, Any]) -> list[str]:
        said = (
            f"{number(of['value'], 2)}, {number(of['null_mean'], 2)} ± {number(of['null_sd'], 2)} (p {p_value(of['p'])})"
            for of in row["random"].values()
        )
        return [f"`{row['pair']}`", row["kind"], str(row["pairs"]), *said]

    header = ["b is", "features of", "matches", *(f"{shown}, as many others" for shown in MEASURES.values())]
    return table(header, (cells(row) for row in rows if row["random"]))


def neurons(read: Read) -> Rows:
    """Of each pair how well features and neurons match one to one; None of neurons where there are none to compare."""
    rows = []
    for pair in PAIRS:
        made = read(f"pair-{pair}/similarity.json")
        one = made["headline"]["one"]
        features = one["all"] | {"by_chance": one["by_chance"]["frequent"]}
        parts = {"features": features, "neurons": (made["neurons"]["headline"] or {}).get("one")}
        keys = ("n", "r", "r_token", "above_chance", "above_chance_given_token", "above_07", "by_chance")
        shown = {name: of and {key: of[key] for key in keys} for name, of in parts.items()}
        rows.append({"pair": pair, "reason": made["neurons"]["reason"], **shown})
    return rows


def neurons_table(rows: Rows) -> str:
    """One line per pair with neurons, and of features beside it."""

    def cells(row: dict[str, Any], what: str) -> list[str]:
        of = row[what]
        shares = (number(of[key], 2) for key in ("above_chance", "above_chance_given_token", "above_07"))
        chance = number(of["by_chance"]["q95"], 3)
        return [f"`{row['pair']}`", what, str(of["n"]), *(median(of[key]) for key in ("r", "r_token")), chance, *shares]

    header = ["b is", "matched", "one to one", "r", "r given the token", "by chance: .95 quantile of r"]
    shown = ((row, what) for row in rows if row["neurons"] for what in ("features", "neurons"))
    shares = ["beyond chance", "beyond chance given the token", "r > .7"]
    return table([*header, *shares], (cells(row, what) for row, what in shown))


def matched(read: Read) -> Rows:
    """Of each pair how well features match one to one: all, and those whose match is not trivial."""
    rows = []
    for pair in PAIRS:
        one = read(f"pair-{pair}/similarity.json")["headline"]["one"]
        all_, meaningful = one["all"], one["meaningful"]
        shown = {
            "all": {key: all_[key] for key in ("n", "r", "r_token", "lexical")},
            "meaningful": {key: meaningful[key] for key in ("n", "r", "above_07")},
        }
        rows.append({"pair": pair, **shown, "by_chance": one["by_chance"]["frequent"]["q95"]})
    return rows


def matched_table(rows: Rows) -> str:
    """One line per pair."""

    def cells(row: dict[str, Any]) -> list[str]:
        every, kept = row["all"], row["meaningful"]
        medians = map(median, (every["r"], kept["r"], every["r_token"]))
        shares = (number(share, 2) for share in (every["lexical"], kept["above_07"]))
        counts = f"{every['n']}, {kept['n']}"
        return [f"{PAIRS[row['pair']]} (`{row['pair']}`)", counts, *medians, *shares, number(row["by_chance"])]

    header = ["b is", "matched, of them not trivial", "r, all", "r, not trivial", "r given the token, all"]
    shares = ["goes with the token, all", "r > .7, not trivial", "by chance: .95 quantile of r"]
    return table([*header, *shares], map(cells, rows))


def median(of: dict[str, Any]) -> str:
    """A median with its 95 % interval."""
    return f"{number(of['median'], 2)} [{number(of['ci95'][0], 2)}, {number(of['ci95'][1], 2)}]"


def transplants(read: Read) -> Rows:
    """What a vector does at its strength in its own model, and in the other by each way."""
    rows = []
    for pair in MODELS:
        made = read(f"pair-{pair}/transplant.json")
        for way, of in {"in_a": made["in_a"], **made["in_b"]}.items():
            [own] = [each for each in of["scales"] if each["scale"] == made["scale"]]
            null = max((each["quantile_95"] for each in own["nulls"].values()), default=None)
            kept = {key: own[key] for key in ("lift", "kl", "p")}
            rows.append({"pair": pair, "way": way, "scale": made["scale"], "window": of.get("window"), "null_95": null, **kept})
        rows[-1]["cosine"] = made["cosine_with_own"]
    return rows


def transplants_table(rows: Rows) -> str:
    """One line per pair and way."""

    def cells(row: dict[str, Any]) -> list[str]:
        has_null = row["null_95"] is not None
        digits = 3 if row["pair"] == "models" else 5
        return [
            f"`{row['pair']}`",
            WAYS[row["way"]],
            interval(row["lift"], digits),
            number(row["null_95"], digits) if has_null else "–",
            p_value(row["p"]) if has_null else "–",
            number(row["kl"], 2),
            ", ".join(number(scale, 2) for scale in row["window"]) if row["window"] else "none" if has_null else "–",
        ]

    ordered = sorted(rows, key=lambda row: (MODELS.index(row["pair"]), list(WAYS).index(row["way"])))
    return table(["pair", "the vector", "lift of lion", "null .95", "p", "KL, nats", "window"], map(cells, ordered))


EXTRACTS = {
    "across": across,
    "kinds": kinds,
    "neurons": neurons,
    "pair_matches": matched,
    "transplants": transplants,
}
TABLES = {
    "across": across_table,
    "kinds": kinds_table,
    "neurons": neurons_table,
    "pair_matches": matched_table,
    "transplants": transplants_table,
}
