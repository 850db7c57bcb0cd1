"""Layouts of points in two dimensions, to be looked at: nothing is computed on one."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

# What lays points out: those that the layout is fitted on (None), or others placed among them.
Layout = Callable[[Float[np.ndarray, "_ d"] | None], Float[np.ndarray, "_ 2"]]


def fitted_layout(rows: Float[np.ndarray, "n d"], metric: str, n_neighbors: int, min_dist: float, seed: int) -> Layout:
    """UMAP of rows (McInnes et al. 2018, arXiv 1802.03426); on one machine the same at every call."""
    from umap import UMAP  # its import takes seconds

    neighbours = min(n_neighbors, len(rows) - 1)
    umap = UMAP(n_neighbors=neighbours, min_dist=min_dist, metric=metric, random_state=seed, n_jobs=1)
    umap.fit(rows.astype(np.float32))

    def place(others: Float[np.ndarray, "_ d"] | None) -> Float[np.ndarray, "_ 2"]:
        places = umap.embedding_ if others is None else umap.transform(others.astype(np.float32))
        return np.asarray(places, dtype=np.float64)

    return place
