"""Measured causal effects of features, for the page of an SAE's features."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from undertone.lab.other_saes import Relation
from undertone.lab.page import short
from undertone.runtime.files import Stamp, read_json


def measured(folder: Path, numbers: Iterable[str], stamp: Stamp) -> dict[str, Relation]:
    """Return `influence`: by feature its verdict, the mode in which it raises its tokens most, and the rows of that mode.

    A row is [multiple, rise, [.05 and .95 quantile of the rise among nulls] or null, KL, tokens that rise most, text]. A
    measurement is left out if its SAE, model or text differs from those in the page's `stamp`.
    """
    own: dict[int, Any] = {}
    for number in numbers:
        result = read_json(folder / f"{number}.json")
        if agree(result["stamp"], stamp):
            mode = result["raises"]["mode"]
            own[int(number)] = {
                "verdict": result["verdict"],
                "mode": mode,
                "rows": [row_of(dose) for dose in result["doses"] if dose["mode"] == mode],
            }
    return {"influence": ({}, own)}


def row_of(dose: Mapping[str, Any]) -> list[Any]:
    """Return a dose as the page shows it; the band spans the nulls of both kinds."""
    nulls = [each["rise"] for each in dose["nulls"].values()]
    band = (
        [short(min(each["quantile_05"] for each in nulls)), short(max(each["quantile_95"] for each in nulls))]
        if nulls
        else None
    )
    tokens = [text for text, _ in dose["tokens"]]
    return [dose["multiple"], short(dose["rise"]), band, short(dose["kl"]), tokens, dose["greedy"]]


def agree(one: Stamp, other: Stamp) -> bool:
    """Return whether two stamps agree on everything that both hold."""
    return all(
        one[part][key] == other[part][key]
        for part in one.keys() & other.keys()
        for key in one[part].keys() & other[part].keys()
    )
