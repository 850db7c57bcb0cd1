"""Tables of docs/vectors.md: what adding the vectors of config/vectors.yaml does, and the lion's contrast after every layer."""

from typing import Any

from cells import Read, Rows, interval, number, p_value, table
from vector_tables import VECTORS


def vectors(read: Read) -> Rows:
    """How certain each vector is, and the greatest lift at a tolerable KL."""
    rows = []
    for name in VECTORS:
        made, dose = read(f"vector-{name}/vector.json"), read(f"vector-{name}/dose.json")
        limit = dose["stamp"]["settings"][f"dose-{name}"]["dose"]["max_kl"]
        best = greatest(dose["scales"], limit)
        keys = ("scale", "lift", "kl", "pass_rate")
        null = max(each["quantile_95"] for each in best["nulls"].values())
        own = {key: made[key] for key in ("kind", "layer", "norm_ratio")}
        certain = {"split_half": made.get("split_half"), "window": dose["window"], "p": dose["p_greatest"]}
        rows.append({"vector": name, **own, **certain, **{key: best[key] for key in keys}, "null_95": null})
    return rows


def vectors_table(rows: Rows) -> str:
    """One line per vector."""

    def cells(row: dict[str, Any]) -> list[str]:
        half = row["split_half"]
        return [
            f"`{row['vector']}`",
            f"{row['kind']}, {row['layer']}",
            number(row["norm_ratio"], 2),
            f"{number(half['value'], 2)} ({number(half['null_95'], 2) if half['n'] else '–'})" if half else "–",
            sizes(row["window"]),
            f"{interval(row['lift'])} at {number(row['scale'], 2)}",
            number(row["null_95"]),
            p_value(row["p"]),
            number(row["kl"], 2),
        ]

    header = ["vector", "kind, layer", "norm", "split-half cosine (null .95)", "window", "greatest lift of lion", "null .95"]
    return table([*header, "p", "KL, nats"], map(cells, rows))


def vector_at_layers(read: Read) -> Rows:
    """Of each layer the greatest lift of the lion's contrast at a tolerable KL, and KL at a lift that all reach."""
    repeated = read("vector-lion/dose.json")["by_layer"]
    rows = []
    for layer in repeated["layers"]:
        best = greatest(layer["scales"], repeated["max_kl"])
        nulls = [each["quantile_95"] for each in best["nulls"].values()]
        own = {"layer": layer["layer"], "window": layer["window"], "p": layer["p_greatest"], "null_95": nulls}
        at = {"max_kl": repeated["max_kl"], "equal_lift": repeated["equal_lift"], "kl_at_equal_lift": layer["kl"]}
        rows.append(own | {key: best[key] for key in ("scale", "lift", "kl")} | at)
    return rows


def vector_at_layers_table(rows: Rows) -> str:
    """One line per layer."""

    def cells(row: dict[str, Any]) -> list[str]:
        return [
            str(row["layer"]),
            sizes(row["window"]),
            f"{interval(row['lift'])} at {number(row['scale'], 2)}",
            ", ".join(map(number, row["null_95"])),
            p_value(row["p"]),
            number(row["kl"], 2),
            "–" if row["kl_at_equal_lift"] is None else number(row["kl_at_equal_lift"], 2),
        ]

    limit, lift = number(rows[0]["max_kl"], 1), number(rows[0]["equal_lift"])
    header = ["layer", "window", f"greatest lift of lion at a KL of at most {limit}", "null .95, shuffled labels and N(0, Cov)"]
    return table([*header, "p", "KL there, nats", f"KL at a lift of {lift}"], map(cells, rows))


def greatest(scales: Rows, max_kl: float) -> dict[str, Any]:
    """The scale with the greatest lift at a tolerable KL."""
    return max((row for row in scales if row["kl"] <= max_kl), key=lambda row: row["lift"]["mean"])


def sizes(window: list[float]) -> str:
    """The sizes of a window."""
    return ", ".join(number(scale, 2) for scale in window) if window else "none"


EXTRACTS = {"vectors": vectors, "vector_at_layers": vector_at_layers}
TABLES = {"vectors": vectors_table, "vector_at_layers": vector_at_layers_table}
