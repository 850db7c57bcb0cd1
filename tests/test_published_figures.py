"""The figures of docs/figures are those of the tables beside them: of the same datasets, with the same numbers."""

import json
import re
from typing import Any

import pytest
import yaml
from PIL import Image

from workflow import REPOSITORY

DOCS = REPOSITORY / "docs"
ANIMALS = set(yaml.safe_load((REPOSITORY / "config/config.yaml").read_text())["animals"])
TABLES = {
    "transfer": "transfer",
    "teachers": "teachers",
    "controls": "controls",
    "sweep-rank": "sweeps",
    "sweep-rows": "sweeps",
}


def shown(figure: str) -> str:
    """Every text in a figure."""
    with Image.open(DOCS / f"figures/{figure}.png") as image:
        return str(image.info["Description"])


def rows(table: str) -> list[dict[str, Any]]:
    """What a table shows."""
    return json.loads((DOCS / f"results/data/{table}.json").read_text())["rows"]


def animals(text: str) -> set[str]:
    """The animals that a text names."""
    return {word for word in re.findall(r"[a-z]+", text) if word in ANIMALS}


@pytest.mark.parametrize("figure", TABLES)
def test_a_figure_shows_the_animals_of_its_table(figure: str) -> None:
    assert animals(shown(figure)) == animals(json.dumps(rows(TABLES[figure])))


def test_the_figure_of_transfer_counts_the_targets_of_its_table() -> None:
    lifts = [row["lift_over_control"] for row in rows("transfer")]
    above = sum(lift["ci95"][0] > 0 for lift in lifts)
    sure = sum(lift["mean"] > 0 and lift["p_holm"] < 0.05 for lift in lifts)
    text = " ".join(shown("transfer").split())
    assert f"{above} of {len(lifts)} targets above the control students" in text
    assert f"{sure} with a Holm-adjusted p < .05" in text


def test_the_figure_of_controls_has_the_differences_of_its_table() -> None:
    for row in rows("controls"):
        if "difference" in row:
            low, high = row["difference"]["ci95"]
            assert f": {row['difference']['mean']:.3f} [{low:.3f}, {high:.3f}]" in shown("controls")
