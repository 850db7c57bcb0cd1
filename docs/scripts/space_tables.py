"""Tables of docs/universality.md on whole spaces: decoders of matches, models turned, and layers, of config/pairs.yaml."""

from typing import Any

from cells import Read, Rows, interval, number, table
from pair_tables import MEASURES, MODELS, PAIRS

# The measures that are not 0 of shuffled matches.
ABOVE_0 = ("knn", "procrustes")
# How b's activations are mapped into a's axes, what layers are compared by, and how.
MAPS = {
    "identity": "SAE a on b, as it is",
    "random": "random rotation",
    "procrustes": "one rotation (fitted on shifted text)",
    "ridge": "affine map",
}
COMPARED = {"plain": "as they are", "given_token": "given the token"}
NEAREST = {
    "knn": "neighbours: best layer of b for each of a (share)",
    "cka": "CKA: best layer of b (value)",
}


def spaces(read: Read) -> Rows:
    """Of each pair how alike decoder rows of matches that are not trivial lie, beside shuffled matches."""
    keys = ("value", "null_mean", "z")
    return [
        {"pair": pair, "pairs": of["pairs"], **{name: {key: of["measures"][name][key] for key in keys} for name in MEASURES}}
        for pair in PAIRS
        for of in [read(f"pair-{pair}/similarity.json")["spaces"]["one"]]
    ]


def spaces_table(rows: Rows) -> str:
    """One line per pair."""

    def cell(of: dict[str, float], name: str) -> str:
        shuffled = f" ({number(of['null_mean'], 2)})" if name in ABOVE_0 else ""
        return f"{number(of['value'], 2)}{shuffled}, z {number(of['z'], 0)}"

    header = ["b is", "matches", *(f"{shown} (shuffled)" if name in ABOVE_0 else shown for name, shown in MEASURES.items())]
    return table(
        header, ([f"`{row['pair']}`", str(row["pairs"]), *(cell(row[name], name) for name in MEASURES)] for row in rows)
    )


def rotations(read: Read) -> Rows:
    """Of each pair what SAE a explains of model b through each map, and how near decoder rows of matches come."""
    rows = []
    for pair in PAIRS:
        made = read(f"pair-{pair}/rotation.json")
        decoder = made["decoder"]
        near = {"median_cosine": decoder["median_cosine"], "shuffled": decoder["shuffled"]["median_cosine"]}
        fits = {"a_of_a": made["a_of_a"], "b_of_b": made["b_of_b"], **{name: made["a_of_b"][name] for name in MAPS}}
        rows.append({"pair": pair, **fits, "null": made["null"]["mean"], **near, "above_07": decoder["above_07"]})
    return rows


def rotations_table(rows: Rows) -> str:
    """One line per pair."""

    def explained(fit: dict[str, Any]) -> str:
        return interval({"mean": fit["explained_variance"], "ci95": fit["ci95"]}, 2)

    def cells(row: dict[str, Any]) -> list[str]:
        fits = {name: explained(row[name]) for name in ("a_of_a", "b_of_b", *MAPS)}
        fits["procrustes"] += f" ({number(row['null'], 2)})"
        cosine = f"{number(row['median_cosine'], 2)} ({number(row['shuffled'], 2)}), {number(row['above_07'], 2)}"
        return [f"`{row['pair']}`", *fits.values(), cosine]

    header = ["b is", "SAE a on model a", "SAE b on model b", *MAPS.values()]
    return table([*header, "decoder rows after the rotation: median cosine (shuffled), share > .7"], map(cells, rows))


def layers(read: Read) -> Rows:
    """Of each pair of models the layer of b that is most like each layer of a."""
    return [
        {"pair": pair, "compared": compared}
        | {name: [[best["layer"], best["value"]] for best in of[name]["best_of_a"]] for name in NEAREST}
        for pair in MODELS
        for compared, of in ((compared, read(f"pair-{pair}/layers.json")[compared]) for compared in COMPARED)
    ]


def layers_table(rows: Rows) -> str:
    """One line per pair and comparison."""

    def cells(row: dict[str, Any]) -> list[str]:
        best = (", ".join(f"{a} → {b} ({number(value, 2)})" for a, (b, value) in enumerate(row[name])) for name in NEAREST)
        return [f"`{row['pair']}`", COMPARED[row["compared"]], *best]

    return table(["b is", "compared", *NEAREST.values()], map(cells, rows))


EXTRACTS = {
    "pair_spaces": spaces,
    "pair_rotations": rotations,
    "pair_layers": layers,
}
TABLES = {
    "pair_spaces": spaces_table,
    "pair_rotations": rotations_table,
    "pair_layers": layers_table,
}
