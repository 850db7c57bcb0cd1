"""Test whether vectors of one set are more like their namesakes in another set than like the other vectors."""

from typing import Any

import numpy as np
from jaxtyping import Float

from undertone.stats.stats import mean_interval, p_value, share_interval

# Permutations whose sums are held at once.
AT_ONCE = 2**16


def partners(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n d"], permutations: int, seed: int) -> dict[str, Any]:
    """Compare the cosines of rows that belong together (`same`) with all others, against a null that exchanges names.

    `advantage`: each name's own cosine minus its mean with others, row and column; the mean over names with a t interval. `p`
    and `z`: of that mean under random permutations of one set's names. `cosines`: all of them. `places`: the place of each
    name's partner among the rows of y, after all that are as near. `first`: how many partners come first, with the exact
    interval of their share.
    """
    cosines = unit(x) @ unit(y).T
    own, n = np.diag(cosines), len(cosines)
    rest = (cosines.sum(0) + cosines.sum(1) - 2 * own) / (2 * (n - 1))
    null = by_exchange(cosines, permutations, seed)
    spread = float(null.std())
    places = (cosines >= own[:, None]).sum(1)
    first = int((places == 1).sum())
    return {
        "same": float(own.mean()),
        "other": float(rest.mean()),
        "advantage": mean_interval(own - rest).as_dict(),
        "null_sd": spread,
        "z": (float(np.mean(own - rest)) - float(null.mean())) / spread if spread > 0 else None,
        "p": float(p_value(np.mean(own - rest), null)),
        "cosines": cosines.tolist(),
        "places": places.tolist(),
        "first": {"k": first, "n": n, "ci95": list(share_interval(first, n))},
    }


def unit(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Scale rows to unit length. A row of zeros stays as it is."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)


def by_exchange(cosines: Float[np.ndarray, "n n"], permutations: int, seed: int) -> Float[np.ndarray, " n_permutations"]:
    """Return the mean advantage with the columns' names permuted."""
    n, rng, parts = len(cosines), np.random.default_rng(seed), []
    for start in range(0, permutations, AT_ONCE):
        orders = rng.permuted(np.tile(np.arange(n), (min(AT_ONCE, permutations - start), 1)), axis=1)
        same = cosines[np.arange(n), orders].mean(1)
        parts.append(same - (cosines.sum() / n - same) / (n - 1))
    return np.concatenate(parts)
