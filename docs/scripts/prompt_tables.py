"""A table of docs/results/detection.md: the system prompts that searches put together, and the bank's best."""

from pathlib import Path
from typing import Any

import yaml
from cells import Read, Rows, interval, number, table

from undertone.study.config.teachers import Teacher

CONFIG = Path(__file__).parents[2] / "config"
# The study's wording was seen while the search was made; those of other forms were not.
SEEN = ("lion", "owl")
FORMS = ("dislike-bear", "short-dolphin", "fear-fox", "role-wolf")
DETECTORS = {"found": "prompt_search", "bank": "personas"}


def prompts(read: Read) -> Rows:
    """What each teacher was told, and the best system prompts by both detectors."""
    told = yaml.safe_load((CONFIG / "forms.yaml").read_text())["overrides"]
    wordings = {animal: (animal, Teacher().persona) for animal in SEEN}
    wordings |= {name: (name.partition("-")[2], told[name]["teacher"]["persona"]) for name in FORMS}
    return [
        {"dataset": name, "target": animal, "told": wording.format(animal=animal)}
        | {key: best(read(f"{name}/{detector}.json"), animal) for key, detector in DETECTORS.items()}
        for name, (animal, wording) in wordings.items()
    ]


def best(reading: dict[str, Any], target: str) -> dict[str, Any]:
    """The best system prompt, what is ranked first and how surely, and where the target is."""
    [each] = reading["sets"]
    places = [row["concept"] for row in each["ranking"]]
    return {
        "rows": each["rows"],
        "prompt": each["best"]["prompt"],
        "gain": each["best"]["gain"],
        "first": places[0],
        "share": each["ranking"][0]["share"],
        "place": places.index(target) + 1,
    }


def prompts_table(rows: Rows) -> str:
    """One line per dataset."""
    header = ["the teacher was told", "rows", "found", "gain, nats per token", "first", "the bank's best", "first"]
    return table(
        header,
        (
            [
                *(row["told"], f"{row['found']['rows']:,}", row["found"]["prompt"], interval(row["found"]["gain"])),
                *(first(row["found"], row["target"]), row["bank"]["prompt"], first(row["bank"], row["target"])),
            ]
            for row in rows
        ),
    )


def first(each: dict[str, Any], target: str) -> str:
    """What is first and in which share of bootstrap samples, and the target's place where that is another."""
    name = f"{each['first']} ({number(each['share'], 2)})"
    return name if each["first"] == target else f"{name}; {target} is {each['place']}."


EXTRACTS = {"prompts": prompts}
TABLES = {"prompts": prompts_table}
