"""Tables of docs/vectors.md: what vectors of config/vectors.yaml and config/recovered.yaml are made of and change."""

from typing import Any

from cells import Read, Rows, interval, number, p_value, table
from pair_tables import MEASURES

from undertone.stats.stats import share_interval

VECTORS = ("lion", "lion-feature", "lion-bias")
# The SAEs of config/vectors.yaml; a study that compares SAEs, too, has several of one layer.
SAES = ("sae", "sae-layer1", "sae-layer2", "sae-layer3")
# The decompositions that are shown: vector, SAE.
PARTS = (("lion", "layer1"), ("lion-bias", "layer1"))
# Of whose steered teachers vectors are recovered, and the decomposition of so many features that is shown of them.
STEERED, FEATURES = ("panda", "eagle", "owl", "wolf", "lion", "cat", "penguin", "tiger"), 8
# Of which vectors clouds are shown.
CLOUDS = ("lion", "lion-bias")
# What is shown of `restore`.
WAYS, SIZES = ("necessary", "sufficient"), (4, 16)


def vector_parts(read: Read) -> Rows:
    """What decompositions of some sizes explain and keep."""
    rows = []
    for vector, sae in PARTS:
        made = read(f"vector-{vector}/decomposition-{sae}.json")
        means = made["methods"].get("difference of means")
        for k, size in enumerate(made["sparsities"]):
            pursuit, random = made["methods"]["OMP"][k], made["random_rows"][k]
            rows.append(
                {
                    "vector": vector,
                    "sae": sae,
                    "features": size,
                    "explained": pursuit["explained"],
                    "null": pursuit["explained"] - pursuit["excess"],
                    "z": pursuit["z"],
                    "stability": pursuit.get("stability"),
                    "kept": pursuit["lift_kept"],
                    "nonnegative_kept": made["methods"]["non-negative"][k]["lift_kept"],
                    "means_explained": means[k]["explained"] if means else None,
                    "means_kept": means[k]["lift_kept"] if means else None,
                    "random_kept": [random[end]["lift_kept"] for end in ("mean", "quantile_95")],
                }
            )
    return rows


def vector_parts_table(rows: Rows) -> str:
    """One line per decomposition and number of features."""

    def value(share: float | None) -> str:
        return "–" if share is None else number(share, 2)

    def cells(row: dict[str, Any]) -> list[str]:
        mean, high = row["random_kept"]
        return [
            f"`{row['vector']}`",
            str(row["features"]),
            f"{number(row['explained'], 2)} ({number(row['null'], 2)})",
            value(row["means_explained"]),
            value(row["stability"]),
            *(value(row[name]) for name in ("kept", "nonnegative_kept", "means_kept")),
            "–" if mean is None else f"{number(mean, 2)} to {number(high, 2)}",
        ]

    header = ["vector", "features", "OMP explains (null)", "difference of means explains", "OMP's stability", "OMP keeps"]
    return table(
        [*header, "non-negative keeps", "difference of means keeps", "random features keep, mean to .95"], map(cells, rows)
    )


def vector_layers(read: Read) -> Rows:
    """What arrives at each layer, and what moves in its SAE."""
    rows = []
    for name in VECTORS:
        made = read(f"vector-{name}/downstream.json")
        own = {sae["layer"]: sae for sae in made["saes"] if sae["sae"] in SAES}
        keys = ("features", "moved_t", "beyond_nulls", "energy", "carried_energy", "carried_correlation", "encoded_correlation")
        for layer in made["layers"]:
            sae = own.get(layer["layer"])
            fit = [sae[run]["explained_variance"] for run in ("base", "steered")] if sae else None
            row = {"vector": name, "scale": made["scale"], "layer": layer["layer"], "fit": fit}
            row |= {key: layer[key] for key in ("norm_ratio", "carried", "share")}
            row |= {f"{key}_null": layer["nulls"][key]["mean"] for key in ("norm_ratio", "carried", "share")}
            row |= {"svd": layer["svd"]["share"], "sae": {key: sae[key] for key in keys} if sae else None}
            rows.append(row)
    return rows


def vector_layers_table(rows: Rows) -> str:
    """One line per vector and layer."""

    def cells(row: dict[str, Any]) -> list[str]:
        sae, fit = row["sae"], row["fit"]
        figures = [f"{number(row[key], 2)} ({number(row[f'{key}_null'], 2)})" for key in ("norm_ratio", "carried", "share")]
        moved = ["–"] * 4
        if sae:
            moved = [
                f"{sae['beyond_nulls']} ({sae['moved_t']}) of {sae['features']}",
                number(sae["carried_correlation"], 2),
                number(sae["encoded_correlation"], 2),
                f"{number(fit[0], 2)} → {number(fit[1], 2)}",
            ]
        return [f"`{row['vector']}` at {number(row['scale'], 2)}", str(row["layer"]), *figures, number(row["svd"], 2), *moved]

    header = ["vector", "layer", "‖Δh‖/‖h‖ (null)", "carried (null)", "share along v (null)", "first component"]
    own = ["features beyond nulls (by t)", "r with addition", "r with encode(Δh)", "SAE's explained variance, base → steered"]
    return table([*header, *own], map(cells, rows))


def vector_clouds(read: Read) -> Rows:
    """How alike the same tokens lie before and after each vector, by layer, in the residual stream and in its SAE."""
    rows = []
    for name in CLOUDS:
        made = read(f"vector-{name}/cloud.json")
        for each in made["clouds"]:
            of = {measure: each["measures"][measure] for measure in MEASURES}
            kept = {measure: {key: own[key] for key in ("value", "null_mean", "vectors")} for measure, own in of.items()}
            place = {key: each[key] for key in ("layer", "sae")}
            rows.append({"vector": name, "scale": made["scale"], "tokens": made["tokens"], **place, "measures": kept})
    return rows


def vector_clouds_table(rows: Rows) -> str:
    """One line per vector, layer and kind of activations."""

    def cell(of: dict[str, Any]) -> str:
        null = of["vectors"]
        ends = f"{number(null['quantile_05'], 2)} to {number(null['quantile_95'], 2)}"
        return f"{number(of['value'], 2)} ({ends}; {number(of['null_mean'], 2)})"

    def cells(row: dict[str, Any]) -> list[str]:
        measures = [row["measures"][name] for name in MEASURES]
        p = ", ".join(p_value(of["vectors"]["p"]) for of in measures)
        where = [
            f"`{row['vector']}` at {number(row['scale'], 2)}",
            str(row["layer"]),
            f"SAE `{row['sae'].removeprefix('sae-')}`" if row["sae"] else "stream",
        ]
        return [*where, *map(cell, measures), p]

    header = ["vector", "layer", "of", *(f"{title} (null vectors; shuffled)" for title in MEASURES.values())]
    return table([*header, "p of the four"], map(cells, rows))


def vector_restored(read: Read) -> Rows:
    """What the features of each SAE carry of a vector's effect."""
    rows = []
    for name in VECTORS:
        for sae in (each for each in read(f"vector-{name}/restore.json")["saes"] if each["sae"] in SAES):
            shown = {str(row["features"]): {way: row[way] for way in WAYS} for row in sae["rows"] if row["features"] in SIZES}
            every = {way: sae["all_features"][way]["mean"] for way in WAYS}
            removed = sae["vector_removed"]["mean"]
            rows.append({"vector": name, "layer": sae["layer"], "rows": shown, "all": every, "removed": removed})
    return rows


def vector_restored_table(rows: Rows) -> str:
    """One line per vector and SAE."""

    def share(row: dict[str, Any]) -> str:
        return f"{interval(row, 2)} ({number(row['null_95'], 2)})"

    def cells(row: dict[str, Any]) -> list[str]:
        shares = [share(row["rows"][str(size)][way]) for way in WAYS for size in SIZES]
        every = [number(row["all"][way], 2) for way in WAYS]
        return [f"`{row['vector']}`", str(row["layer"]), *shares, " / ".join(every), number(row["removed"], 2)]

    header = [f"{'lost without' if way == 'necessary' else 'there with'} {size} (random .95)" for way in WAYS for size in SIZES]
    return table(["vector", "SAE of layer", *header, "all features: lost / there", "lost without the vector"], map(cells, rows))


def vector_recovered(read: Read) -> Rows:
    """Where the feature that a teacher was steered by stands in the bias recovered from its dataset, and in the control's."""
    rows = []
    control = read("vector-control-bias/vector.json")["norm"]
    for target in STEERED:
        row: dict[str, Any] = {"target": target}
        for kind in ("steered", "returned"):
            made = read(f"vector-{target}-{kind}/decomposition.json")
            said, omp = made["steered"], made["methods"]["OMP"][made["sparsities"].index(FEATURES)]
            keys = ("cosine", "p", "place", "returned", "step")
            norm = read(f"vector-{target}-{kind}/vector.json")["norm"]
            null = max(each["quantile_95"] for each in said["nulls"].values())
            explained = {"explained": omp["explained"], "null": omp["explained"] - omp["excess"]}
            row[kind] = {**{key: said[key] for key in keys}, "null_95": null, "norm": norm, **explained}
            row |= {"feature": said["feature"], "features": said["features"], "added": said["added"]}
        along = [row[kind]["cosine"] * row[kind]["norm"] for kind in ("steered", "returned")]
        rows.append({**row, "control": (along[0] - along[1]) / control})
    return rows


def vector_recovered_table(rows: Rows) -> str:
    """One line per animal, and how many features come first, and are taken."""

    def cells(row: dict[str, Any]) -> list[str]:
        shown = [f"{row['target']} ({row['feature']})", number(row["control"], 2)]
        for kind in ("steered", "returned"):
            of = row[kind]
            place = f"{of['place']} of {row['features']}"
            step = "–" if of["step"] is None else str(of["step"])
            explained = f"{number(of['explained'], 2)} ({number(of['null'], 2)})"
            shown += [
                f"{number(of['cosine'], 2)} ({number(of['null_95'], 2)})",
                place,
                number(of["returned"], 2),
                step,
                explained,
            ]
        return shown

    def count(k: int) -> str:
        low, high = share_interval(k, len(rows))
        return f"{k} of {len(rows)} [{number(low, 2)}, {number(high, 2)}]"

    totals = ["above null .95, first, taken", ""]
    for kind in ("steered", "returned"):
        each = [row[kind] for row in rows]
        above = count(sum(of["cosine"] > of["null_95"] for of in each))
        first, taken = count(sum(of["place"] == 1 for of in each)), count(sum(of["step"] is not None for of in each))
        totals += [above, first, "", taken, ""]
    header = ["teacher (feature)", "cosine of the control's bias"]
    for of in ("bias", "bias − control's"):
        header += [f"{of}: cosine (null .95)", "place", "share returned", "OMP's step", f"{FEATURES} explain (null)"]
    return table(header, iter([*map(cells, rows), totals]))


EXTRACTS = {
    "vector_parts": vector_parts,
    "vector_layers": vector_layers,
    "vector_clouds": vector_clouds,
    "vector_restored": vector_restored,
    "vector_recovered": vector_recovered,
}
TABLES = {
    "vector_parts": vector_parts_table,
    "vector_layers": vector_layers_table,
    "vector_clouds": vector_clouds_table,
    "vector_restored": vector_restored_table,
    "vector_recovered": vector_recovered_table,
}
