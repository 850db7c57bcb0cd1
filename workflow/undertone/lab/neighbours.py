"""The nearest features of each feature, by decoder row, encoder column and co-firing, and how near features are by chance."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from scipy import sparse
from scipy.stats import beta

from undertone.lab.context_table import read_contexts
from undertone.lab.firing import LEVEL, Firing, read_firing, shifted, upper
from undertone.lab.reading import Reader
from undertone.lm.loading import load
from undertone.runtime.files import Stamp, write_json, write_parquet
from undertone.runtime.progress import progress
from undertone.saes.cautions import of_dead
from undertone.saes.saved import load_sae_at
from undertone.stats import partners
from undertone.study.config.lab import Neighbours

# Features compared with all others at a time.
CHUNK = 512
# Sets of random vectors with the same spread as the rows.
DRAWS = 20
SCHEMA: dict[str, Any] = {
    "feature": pl.Int64,
    "by": pl.String,
    "rank": pl.Int64,
    "neighbour": pl.Int64,
    "value": pl.Float64,
    "null95": pl.Float64,
    "null95_spread": pl.Float64,
}
# A function that maps places among the living features to their similarities with all living features.
Similar = Callable[[slice], np.ndarray]


def find_neighbours(
    model: Path, sae: Path, text: Path, neighbours: Path, summary: Path, settings: Neighbours, max_norm: float, stamp: Stamp
) -> str:
    """Write the nearest features of each feature that fires at all, and a summary; return a message for the log."""
    loaded = load(model)
    dictionary, at = load_sae_at(sae, loaded)
    contexts = read_contexts(text)
    firing = read_firing(Reader(loaded, dictionary, at, contexts, max_norm, 0, 0))
    alive = firing.alive
    rows = {"decoder": dictionary.W_dec, "encoder": dictionary.W_enc.T}
    tables, parts = [], {}
    for way, weights in rows.items():
        unit = partners.unit(weights.detach().double().cpu().numpy()[alive])
        nulls = {"null95": random_bound(unit.shape[1], len(alive)), "null95_spread": spread_bound(unit, settings.seed)}
        tables.append(near(way, alive, cosines(unit), settings.k, nulls))
        parts[way] = said(tables[-1], nulls)
    draws = co_firing_by_chance(firing, settings.shifts, settings.seed)
    null = upper(draws) if draws.size else None
    tables.append(near("firing", alive, co_firing(firing.fires, firing.fires), settings.k, {"null95": null}))
    parts["firing"] = said(tables[-1], {"null95": null}) | {"shifts": len(draws)}
    table = pl.concat(tables).sort("feature", maintain_order=True)
    n_dead = dictionary.cfg.d_sae - len(alive)
    counts = {
        "warning": of_dead(n_dead, dictionary.cfg.d_sae),
        "d_sae": dictionary.cfg.d_sae,
        "layer": at.layer,
        "dead": n_dead,
        "tokens": len(firing.token),
        "contexts": len(contexts),
        "k": min(settings.k, max(len(alive) - 1, 0)),
    }
    write_parquet(neighbours, table, stamp)
    write_json(summary, {**counts, **parts, "shared": shared(table, len(alive))}, stamp)
    above = ", ".join(f"{way} {part['above']}" for way, part in parts.items())
    return f"{len(alive)} features; their nearest is nearer than by chance: {above}"


def cosines(unit: Float[np.ndarray, "n d_model"]) -> Similar:
    """Return a function of cosines of some of the rows with all rows."""
    return lambda part: unit[part] @ unit.T


def random_bound(d_model: int, n: int) -> float | None:
    """Return the bound that a vector's greatest cosine with n − 1 random ones exceeds once in 20 times.

    The square of a random unit vector's cosine with a given one is distributed as Beta(½, (d − 1) / 2).
    """
    if n < 2 or d_model < 2:
        return None
    beyond = -np.expm1(np.log(LEVEL) / (n - 1))  # probability for one vector
    return float(np.sqrt(beta.isf(min(1.0, 2 * beyond), 0.5, (d_model - 1) / 2)))


def spread_bound(unit: Float[np.ndarray, "n d_model"], seed: int) -> float | None:
    """Return the same bound for random vectors with the rows' second moments, as an SAE of a narrow cloud has narrow rows."""
    if len(unit) < 2:
        return None
    rng = np.random.default_rng(seed)
    greatest = [nearest(cosines(random_rows(unit, rng)), len(unit), 1)[1][:, 0] for _ in range(DRAWS)]
    return float(np.quantile(np.concatenate(greatest), LEVEL))


def random_rows(unit: Float[np.ndarray, "n d_model"], rng: np.random.Generator) -> Float[np.ndarray, "n d_model"]:
    """Draw as many random unit vectors, with the second moments of the unit rows."""
    values, vectors = np.linalg.eigh(unit.T @ unit / len(unit))
    return partners.unit(rng.normal(size=unit.shape) @ (vectors * np.sqrt(values.clip(min=0))).T)


def co_firing(fires: sparse.csr_matrix, other: sparse.csr_matrix) -> Similar:
    """Return a function of φ between some of the features in `fires` and all in `other`; both say who fires on which token.

    φ = (n₁₁ n₀₀ − n₁₀ n₀₁) / √(n₁. n₀. n.₁ n.₀), where n counts the tokens on which both, neither or one of two features fire.
    It is their correlation, and is set to 0 with a feature that fires on every token, or on none.
    """
    n, columns = fires.shape[0], fires.tocsc()
    own, others = (np.asarray(each.sum(0)).ravel() for each in (fires, other))
    spread, others_spread = (np.sqrt(count * (n - count)) for count in (own, others))

    def phi(part: slice) -> Float[np.ndarray, "n_part n"]:
        both = (columns[:, part].T @ other).toarray()
        scale = np.outer(spread[part], others_spread)
        return np.divide(n * both - np.outer(own[part], others), scale, out=np.zeros_like(both), where=scale > 0)

    return phi


def co_firing_by_chance(firing: Firing, n: int, seed: int) -> Float[np.ndarray, "n_shifts n_alive"]:
    """Return each living feature's greatest φ with the others on text shifted by whole contexts (`shifted`), for `n` shifts."""
    fires = firing.fires
    if fires.shape[1] < 2:
        return np.empty((0, fires.shape[1]))
    draws = []
    with progress(n, "co-firing by chance", "shift") as bar:
        for own, met in shifted(firing.context, n, seed):
            draws.append(nearest(co_firing(fires[own], fires[met]), fires.shape[1], 1)[1][:, 0])
            bar.update()
    return np.array(draws).reshape(len(draws), fires.shape[1])


def nearest(similar: Similar, n: int, k: int) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Return the places of the `k` others most similar to each of n features, and their similarities, descending."""
    places, values = [], []
    for start in range(0, n, CHUNK):
        part = similar(slice(start, start + CHUNK))
        part[np.arange(len(part)), start + np.arange(len(part))] = -np.inf
        order = np.argsort(-part, axis=1, kind="stable")[:, :k]
        places.append(order)
        values.append(np.take_along_axis(part, order, axis=1))
    return np.concatenate(places), np.concatenate(values)


def near(way: str, alive: Int[np.ndarray, " n"], similar: Similar, k: int, nulls: dict[str, Any]) -> pl.DataFrame:
    """Return a table with a row per feature and neighbour."""
    n, k = len(alive), min(k, len(alive) - 1)
    if k < 1:
        return pl.DataFrame(schema=SCHEMA)
    places, values = nearest(similar, n, k)
    columns: dict[str, Any] = {
        "feature": np.repeat(alive, k),
        "by": way,
        "rank": np.tile(np.arange(1, k + 1), n),
        "neighbour": alive[places].ravel(),
        "value": values.ravel(),
    }
    bounds = {name: np.nan if null is None else np.repeat(np.broadcast_to(null, n), k) for name, null in nulls.items()}
    table = pl.DataFrame(
        columns | {name: bounds.get(name, np.nan) for name in ("null95", "null95_spread")}, schema_overrides=SCHEMA
    )
    return table.with_columns(pl.col("null95", "null95_spread").fill_nan(None)).select(list(SCHEMA))


def said(table: pl.DataFrame, nulls: dict[str, Any]) -> dict[str, Any]:
    """Summarise how near nearest features are, and how many are nearer than by chance once in 20 times (`above`)."""
    first = table.filter(pl.col("rank") == 1)
    medians = {name: None if null is None else float(np.median(null)) for name, null in nulls.items()}
    above = {f"above{name.removeprefix('null95')}": int((first["value"] > first[name]).sum()) for name in nulls}
    return {"features": len(first), "median": first["value"].median(), "q90": first["value"].quantile(0.9), **medians, **above}


def shared(table: pl.DataFrame, n: int) -> dict[str, Any]:
    """Return the share of a feature's neighbours by one way that are its neighbours by another, and that of random sets."""
    by_way = table.group_by("by", maintain_order=True)
    pairs = {way: set(rows.select("feature", "neighbour").iter_rows()) for (way,), rows in by_way}
    k = len(pairs.get("decoder", ())) / n if n else 0
    shares = {
        f"{a}_{b}": len(pairs[a] & pairs[b]) / len(pairs[a])
        for a, b in (("decoder", "encoder"), ("decoder", "firing"), ("encoder", "firing"))
        if k
    }
    return {**shares, "chance": k / (n - 1) if k else None}
