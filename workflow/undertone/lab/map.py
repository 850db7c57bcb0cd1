"""A map of an SAE's features: decoder rows laid out in two dimensions, with clusters found in all dimensions."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from scipy import sparse
from sklearn.cluster import HDBSCAN, SpectralClustering
from sklearn.metrics import adjusted_mutual_info_score

from undertone.lab.layout import fitted_layout
from undertone.lab.neighbours import cosines, nearest, random_rows
from undertone.runtime.files import Stamp, read_json, read_parquet, write_json, write_parquet
from undertone.saes.saved import read_sae
from undertone.stats.partners import unit
from undertone.study.config.lab import Map

# Fewest features for a map.
FEWEST = 10
# Nearest neighbours of a feature; the share of them that the layout keeps is its trust.
NEAREST = 10
# Sets of random rows that are clustered as a null, and shuffles of labels.
DRAWS, SHUFFLES = 10, 199
# Label of features in no cluster.
NOISE = -1
SCHEMA: dict[str, Any] = {"feature": pl.Int64, "x": pl.Float64, "y": pl.Float64, "cluster": pl.Int64, "row": pl.List(pl.Int8)}
# Greatest entry of a row as kept for the page; cosines of such rows are right to a few thousandths.
GREATEST = 127


def make_map(
    sae: Path, neighbours: Path, summary: Path, map_table: Path, map_summary: Path, settings: Map, stamp: Stamp
) -> str:
    """Write each firing feature's place and cluster, and the layout's trust; return a message for the log.

    `neighbours` and `summary` are the outputs of `neighbours`. There is no map if fewer than 10 features fire.
    """
    table, about = read_parquet(neighbours), read_json(summary)
    alive = table["feature"].unique().sort().to_numpy()
    counts = {key: about[key] for key in ("warning", "d_sae", "layer", "dead")} | {"features": len(alive)}
    if len(alive) < FEWEST:
        reason = f"{len(alive)} features fire on the text, expected {FEWEST} or more"
        write_parquet(map_table, pl.DataFrame(schema=SCHEMA), stamp)
        write_json(map_summary, {**counts, "reason": reason}, stamp)
        return f"no map: {reason}"
    record = read_json(sae)
    folder = Path(record["folder"]) if record["source"] == "folder" else sae.parent
    rows = unit(read_sae(folder).W_dec.detach().double().cpu().numpy()[alive])
    places, cluster = layout(rows, settings), clusters(rows, settings.min_cluster)
    said = {"trust": overlap(rows, places), "trust_chance": NEAREST / (len(alive) - 1)}
    said |= counted(cluster) | {"by_chance": clusters_by_chance(rows, settings)}
    columns = {"feature": alive, "x": places[:, 0], "y": places[:, 1], "cluster": cluster, "row": whole(rows)}
    write_parquet(map_table, pl.DataFrame(columns, schema=SCHEMA), stamp)
    write_json(map_summary, {**counts, "reason": None, **said, "co_firing": agreement(cluster, table, alive, settings)}, stamp)
    return f"{len(alive)} features in {said['clusters']} clusters and {said['noise']:.0%} in none; trust {said['trust']:.2f}"


def whole(rows: Float[np.ndarray, "n d_model"]) -> pl.Series:
    """Return rows as whole numbers, scaled so that the greatest entry of each is ±127."""
    greatest = np.abs(rows).max(1, keepdims=True)
    scaled = np.rint(GREATEST * rows / np.where(greatest > 0, greatest, 1)).astype(np.int8)
    return pl.Series(scaled.tolist(), dtype=pl.List(pl.Int8))


def layout(rows: Float[np.ndarray, "n d_model"], settings: Map) -> Float[np.ndarray, "n 2"]:
    """Lay out unit rows by UMAP with cosine distance."""
    return fitted_layout(rows, "cosine", settings.n_neighbors, settings.min_dist, settings.seed)(None)


def clusters(rows: Float[np.ndarray, "n d_model"], min_cluster: int) -> Int[np.ndarray, " n"]:
    """Cluster unit rows by HDBSCAN with cosine distance in all dimensions.

    Returns labels from 0, the largest cluster first; −1 for rows in no cluster.
    """
    labels = HDBSCAN(min_cluster_size=min(min_cluster, len(rows)), metric="cosine", copy=True).fit_predict(rows)
    sizes = np.bincount(labels[labels >= 0], minlength=1)
    by_size = np.argsort(np.argsort(-sizes, kind="stable"), kind="stable")
    return np.where(labels >= 0, by_size[labels], NOISE)


def counted(cluster: Int[np.ndarray, " n"]) -> dict[str, Any]:
    """Return the number of clusters and the share of features in none."""
    return {"clusters": len({*cluster.tolist()} - {NOISE}), "noise": float((cluster == NOISE).mean())}


def clusters_by_chance(rows: Float[np.ndarray, "n d_model"], settings: Map) -> dict[str, float]:
    """Return the figures of `counted` for random rows with the same second moments, mean of 10 draws."""
    rng = np.random.default_rng(settings.seed)
    draws = [counted(clusters(random_rows(rows, rng), settings.min_cluster)) for _ in range(DRAWS)]
    return {key: float(np.mean([draw[key] for draw in draws])) for key in ("clusters", "noise")}


def overlap(rows: Float[np.ndarray, "n d_model"], places: Float[np.ndarray, "n 2"]) -> float:
    """Return the share of a feature's 10 nearest by cosine that are among its 10 nearest in the layout, mean over features."""
    n, k = len(rows), min(NEAREST, len(rows) - 1)
    by_cosine, _ = nearest(cosines(rows), n, k)
    by_layout, _ = nearest(lambda part: -np.square(places[part, None] - places[None]).sum(-1), n, k)
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(by_cosine, by_layout, strict=True)]))


def agreement(
    cluster: Int[np.ndarray, " n"], table: pl.DataFrame, alive: Int[np.ndarray, " n"], settings: Map
) -> dict[str, Any]:
    """Compare clusters of rows with clusters of co-firing: adjusted mutual information over features in a row cluster.

    The co-firing clusters are equally many: spectral clusters of the graph that joins each feature to its nearest by φ, where
    φ is positive. `null_mean`, `null95` and `p` are from shuffled labels.
    """
    n, inside = counted(cluster)["clusters"], cluster != NOISE
    firing = table.filter((pl.col("by") == "firing") & (pl.col("value") > 0))
    if n < 2 or firing.is_empty():
        return {"reason": "fewer than two clusters, or no features that fire together", "ami": None}
    ends = [np.searchsorted(alive, firing[name].to_numpy()) for name in ("feature", "neighbour")]
    graph = sparse.coo_matrix((firing["value"].to_numpy(), ends), shape=(len(alive), len(alive))).tocsr()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Graph is not fully connected")
        spectral = SpectralClustering(n, affinity="precomputed", assign_labels="cluster_qr", random_state=settings.seed)
        of_firing = spectral.fit_predict(graph.maximum(graph.T))
    own, other = cluster[inside], of_firing[inside]
    rng = np.random.default_rng(settings.seed)
    null = np.array([adjusted_mutual_info_score(rng.permutation(own), other) for _ in range(SHUFFLES)])
    ami = float(adjusted_mutual_info_score(own, other))
    p = (1 + float((null >= ami).sum())) / (1 + len(null))
    return {
        "reason": None,
        "features": int(inside.sum()),
        "ami": ami,
        "null_mean": float(null.mean()),
        "null95": float(np.quantile(null, 0.95)),
        "p": p,
    }
