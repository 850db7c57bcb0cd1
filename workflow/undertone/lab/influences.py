"""What the page of an SAE's features says of what features cause, where that has been measured."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from undertone.lab.other_saes import Relation
from undertone.lab.page import short
from undertone.runtime.files import Stamp, read_json


def measured(folder: Path, numbers: Iterable[str], stamp: Stamp) -> dict[str, Relation]:
    """`influence`: by feature its verdict, the mode in which it raises its tokens most, and the rows of that mode.

    A row is [multiple, rise, its .05 and .95 quantile among nulls or null, KL, tokens that rise most, text]. What was measured
    of another state of the SAE, its model or the text than the page's `stamp` has is left out.
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
    """A strength as the page shows it; nulls of both kinds together."""
    nulls = [each["rise"] for each in dose["nulls"].values()]
    band = (
        [short(min(each["quantile_05"] for each in nulls)), short(max(each["quantile_95"] for each in nulls))]
        if nulls
        else None
    )
    tokens = [text for text, _ in dose["tokens"]]
    return [dose["multiple"], short(dose["rise"]), band, short(dose["kl"]), tokens, dose["greedy"]]


def agree(one: Stamp, other: Stamp) -> bool:
    """Whether what two stamps both hold is the same."""
    return all(
        one[part][key] == other[part][key]
        for part in one.keys() & other.keys()
        for key in one[part].keys() & other[part].keys()
    )
