"""A process that imports this has UMAP compiled, which takes longer than a layout, and so has every process forked from it.

Forks need NUMBA_THREADING_LAYER=workqueue: behind numba's OpenMP no process may be forked.
"""

import numpy as np
from umap import UMAP

few = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
UMAP(n_neighbors=5, min_dist=0.1, metric="cosine", random_state=0, n_jobs=1).fit(few)
