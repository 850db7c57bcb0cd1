"""Tables of docs/results/detection.md: which steering explains a dataset's rows best."""

from typing import Any

from cells import Read, Rows, interval, number, table, whole

from undertone.detect.detectors import place_of

# The animals on whose contrasts the reference of a contrast was chosen, and others; the layers of both.
CHOSEN_ON = ("lion", "tiger", "eagle", "panda", "owl", "cat", "penguin", "wolf")
HELD_OUT = ("dolphin", "elephant", "dog", "bear", "fox", "horse", "whale", "rabbit")
LAYERS = (1, 2)
MIN_ROWS = 200  # below them a verdict says nothing
# The study config/steered-verdicts.yaml: the animals on which the rule was looked at, and others.
LOOKED_AT, FIXED = ("lion", "eagle", "owl"), ("dog", "horse", "whale", "elephant")
TEACHERS = {"": "told", "steer-": "a feature", "after-1-": "a contrast after layer 1", "after-2-": "a contrast after layer 2"}


def best_of(reading: dict[str, Any]) -> dict[str, Any]:
    """What a reading puts first, and how clearly."""
    if not reading["ranking"]:
        return {"rows": reading["rows"]}
    first, second = reading["ranking"][:2]
    best = {name: reading["best"][name] for name in ("concept", "layer", "length", "gain")}
    return {
        "rows": reading["rows"],
        "p": reading["presence"]["p"],
        "z": reading["presence"]["z"],
        **best,
        "share": first["share"],
        "second": second["concept"],
        "second_gain": second["score"],
    }


def steering_contrasts(read: Read) -> Rows:
    """Of teachers that a contrast steers: the best contrast of the bank, the target's place, and the best system prompt."""
    rows = []
    for animals in (HELD_OUT, CHOSEN_ON):
        for layer in LAYERS:
            for animal in animals:
                name = f"after-{layer}-{animal}"
                [steered] = read(f"{name}/contrasts.json")["sets"]
                row = {"layer_of_teacher": layer, "target": animal, "held_out": animals is HELD_OUT, **best_of(steered)}
                rows.append(row | {"place": place_of(steered["ranking"], animal)} | told(read, name, animal))
    return rows


def told(read: Read, name: str, animal: str) -> dict[str, Any]:
    """The system prompt that explains a dataset best."""
    try:
        [reading] = read(f"{name}/personas.json")["sets"]
    except FileNotFoundError:
        return {"prompt": None}
    best = reading["best"]
    place = place_of(reading["ranking"], animal)
    return {"prompt": best["concept"], "prompt_gain": best["gain"]["mean"], "prompt_place": place}


def steering_features(read: Read) -> Rows:
    """Of teachers that a feature steers: the best feature, and the teacher's own."""
    rows = []
    for animal in CHOSEN_ON:
        [reading] = read(f"steer-{animal}/sae_features.json")["sets"]
        own = str(read(f"steer-{animal}/teacher.json")["feature"])
        row = {"target": animal, "own": own, **best_of(reading), "tokens": reading["best"]["tokens"]}
        rows.append(row | {"place": place_of(reading["ranking"], own)})
    return rows


def steering_nulls(read: Read) -> Rows:
    """Of base samples: gains, how many differ, and of how many the first is first in enough bootstrap samples."""
    rows = []
    for name in ("nulls/seeds/contrasts", "control/sae_features"):
        sets = read(f"{name}.json")["sets"]
        gains = [each["best"]["gain"]["mean"] for each in sets]
        below = sum(each["presence"]["p"] < 0.01 for each in sets)
        sure = sum(each["ranking"][0]["share"] >= 0.95 for each in sets)
        size = {"sets": len(sets), "rows": max(each["rows"] for each in sets)}
        rows.append({"detector": name.rpartition("/")[2], **size, "below": below, "gain": max(gains), "sure": sure})
    return rows


def steering_verdicts(read: Read) -> Rows:
    """What verdicts that try steering name, and the best system prompt and vector, held-out animals first."""
    rows = []
    for animals in (FIXED, LOOKED_AT):
        for start, teacher in TEACHERS.items():
            for animal in animals:
                try:
                    verdict = read(f"steered/{start}{animal}/verdict.json")
                except FileNotFoundError:  # of the animals of the choice not every one is steered after every layer
                    continue
                about = {"teacher": teacher, "target": animal, "held_out": animals is FIXED}
                rows.append({**about, "rows": verdict["rows"], "tier": verdict["tier"], **explained(verdict)})
    return rows


def explained(verdict: dict[str, Any]) -> dict[str, Any]:
    """What a verdict names, and what explains the rows best."""
    if verdict["tier"] == "no statement":
        return {}
    origin = verdict["origin"]
    return {
        "named": [{key: each[key] for key in ("detector", "concept")} for each in origin["named"]],
        "prompt": {key: origin["prompt"][key] for key in ("concept", "gain")},
        "vector": {key: origin["vector"][key] for key in ("concept", "layer", "length", "gain")},
    }


def steering_verdicts_nulls(read: Read) -> Rows:
    """How many null datasets come to which tier where verdicts try steering, and the largest gain of a vector."""
    tiers = read("steered/tables/detection.json")["nulls"]
    rows = []
    for size, kinds in tiers.items():
        for kind, counts in kinds.items():
            sets = [each for each in read(f"steered/nulls/{kind}/contrasts.json")["sets"] if each["rows"] == int(size)]
            rows.append(
                {"kind": kind, "rows": int(size), "tiers": counts, "gain": max(each["best"]["gain"]["mean"] for each in sets)}
            )
    return rows


def of_best(row: dict[str, Any], what: str) -> list[str]:
    """What was found, where, how long, its gain, and what comes next."""
    where = f"{row['layer']}, {row['length']:g}"
    return [what, where, interval(row["gain"]), number(row["share"], 2), f"{row['second']} {number(row['second_gain'])}"]


def steering_contrasts_table(rows: Rows) -> str:
    """One line per teacher."""

    def cells(row: dict[str, Any]) -> list[str]:
        start = [str(row["layer_of_teacher"]), row["target"] + ("" if row["held_out"] else " †"), f"{row['rows']:,}"]
        if row["rows"] < MIN_ROWS:
            return [*start, *["–"] * 7]
        known = row["prompt"] is not None
        prompt = f"{row['prompt']} {number(row['prompt_gain'])}; own: {whole(row['prompt_place'])}" if known else "–"
        return [*start, *of_best(row, row["concept"]), whole(row["place"]), prompt]

    header = ["after layer", "target", "rows", "best contrast is of", "layer, length", "gain, nats per token"]
    header += ["in so many bootstraps", "next", "place of target", "best system prompt"]
    return table(header, map(cells, rows))


def steering_features_table(rows: Rows) -> str:
    """One line per teacher."""

    def cells(row: dict[str, Any]) -> list[str]:
        tokens = " ".join(f"`{token.replace(' ', '·')}`".replace("\n", "↵") for token in row["tokens"][:3])
        return [row["target"], row["own"], f"{row['rows']:,}", *of_best(row, row["concept"]), whole(row["place"]), tokens]

    header = ["target", "the teacher's feature", "rows", "best feature", "layer, length", "gain, nats per token"]
    header += ["in so many bootstraps", "next", "place of the teacher's", "raises"]
    return table(header, map(cells, rows))


def steering_nulls_table(rows: Rows) -> str:
    """One line per detector."""

    def cells(row: dict[str, Any]) -> list[str]:
        below = f"{row['below']} of {row['sets']}"
        return [f"`{row['detector']}`", str(row["sets"]), below, number(row["gain"]), f"{row['sure']} of {row['sets']}"]

    header = ["detector", "sets of base samples", "p < .01", "largest gain", "first in 95 % of bootstraps"]
    return table(header, map(cells, rows))


def steering_verdicts_table(rows: Rows) -> str:
    """One line per dataset."""

    def cells(row: dict[str, Any]) -> list[str]:
        start = [row["teacher"], row["target"] + ("" if row["held_out"] else " †"), f"{row['rows']:,}", row["tier"]]
        if row["tier"] == "no statement":
            return [*start, *["–"] * 3]
        by = " and ".join(each["detector"].replace("_", " ") for each in row["named"])
        named = f"{row['named'][0]['concept']} (by {by})" if row["tier"] == "named" else "–"
        prompt, vector = (f"{row[key]['concept']} {number(row[key]['gain']['mean'])}" for key in ("prompt", "vector"))
        return [*start, named, prompt, f"{vector} ({row['vector']['layer']}, {row['vector']['length']:g})"]

    header = ["teacher was", "target", "rows", "tier", "named", "best system prompt", "best vector (layer, length)"]
    return table(header, map(cells, rows))


def steering_verdicts_nulls_table(rows: Rows) -> str:
    """One line per kind of nulls."""
    tiers = ("base samples", "differs", "persona-like", "named")
    header = ["nulls", "rows", *tiers, "largest gain of a vector"]
    cells = (
        [row["kind"], f"{row['rows']:,}", *(str(row["tiers"].get(tier, 0)) for tier in tiers), number(row["gain"])]
        for row in rows
    )
    return table(header, cells)


EXTRACTS = {
    "steering_contrasts": steering_contrasts,
    "steering_features": steering_features,
    "steering_nulls": steering_nulls,
    "steering_verdicts": steering_verdicts,
    "steering_verdicts_nulls": steering_verdicts_nulls,
}
TABLES = {
    "steering_contrasts": steering_contrasts_table,
    "steering_features": steering_features_table,
    "steering_nulls": steering_nulls_table,
    "steering_verdicts": steering_verdicts_table,
    "steering_verdicts_nulls": steering_verdicts_nulls_table,
}
