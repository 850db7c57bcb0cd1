"""Two-dimensional layouts of points, for viewing only: no analysis is done in a layout."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

# A function that places points: those that the layout was fitted on (None), or others among them.
Layout = Callable[[Float[np.ndarray, "_ d"] | None], Float[np.ndarray, "_ 2"]]


def fitted_layout(rows: Float[np.ndarray, "n d"], metric: str, n_neighbors: int, min_dist: float, seed: int) -> Layout:
    """Fit UMAP to rows (McInnes et al. 2018, arXiv 1802.03426); deterministic on one machine."""
    from umap import UMAP  # its import takes seconds

    neighbours = min(n_neighbors, len(rows) - 1)
    umap = UMAP(n_neighbors=neighbours, min_dist=min_dist, metric=metric, random_state=seed, n_jobs=1)
    umap.fit(rows.astype(np.float32))

    def place(others: Float[np.ndarray, "_ d"] | None) -> Float[np.ndarray, "_ 2"]:
        places = umap.embedding_ if others is None else umap.transform(others.astype(np.float32))
        return np.asarray(places, dtype=np.float64)

    return place
