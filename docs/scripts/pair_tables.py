"""The table of docs/universality.md that is made of the datasets of both models of config/across.yaml."""

from collections.abc import Callable
from typing import Any

from cells import interval, number, p_value, table

Rows = list[dict[str, Any]]
Read = Callable[[str], dict[str, Any]]

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


EXTRACTS = {"across": across}
TABLES = {"across": across_table}
