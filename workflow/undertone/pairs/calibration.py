"""What the numbers that say "shared" are worth, where it is known which latents of two SAEs are the same true feature."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from undertone.pairs.best_matches import Halves, counts, scored
from undertone.stats.ranks import auroc

# A threshold is asked for at which so many of those above it are the same feature.
PRECISION = 0.95
# Points of a curve that are written down.
POINTS = 100


def calibration(
    halves: Halves,
    cosines: Float[np.ndarray, "d_a d_b"],
    same: dict[str, Bool[np.ndarray, "d_a d_b"]],
    threshold: float,
    shifts: int,
    seed: int,
) -> dict[str, Any]:
    """Pairs one to one, chosen on half 0: how well their `cosine`, and their `r` on half 1, tell those of the same feature.

    `cosines` are the lesser ones of decoder and encoder, `same` says by name what counts as the same. `by_chance` is the .95
    quantile of r of pairs in shifted samples.
    """
    amounts = counts(*halves.a), counts(*halves.b)
    table = scored(halves, *amounts, ("one",)).drop_nulls("r")
    a, b = table["a"].to_numpy(), table["b"].to_numpy()
    rng = np.random.default_rng(seed)
    shifted = [scored(halves.shifted(rng), *amounts, ("one",))["r"].drop_nulls().to_numpy() for _ in range(shifts)]
    null = np.concatenate(shifted)
    scores = {"cosine": cosines[a, b], "r": table["r"].to_numpy()}
    body: dict[str, Any] = {"pairs": len(a), "by_chance": float(np.quantile(null, 0.95)) if len(null) else None}
    for name, which in same.items():
        judgements = {score: judged(values, which[a, b], threshold) for score, values in scores.items()}
        body[name] = {"same": int(which[a, b].sum()), **judgements}
    return body


def judged(score: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"], threshold: float) -> dict[str, Any]:
    """`auroc`, what pairs `at` the threshold are, what the least threshold of `PRECISION` reaches, and `curve`, all.

    None where all pairs are of the same feature, or none is.
    """
    if not truth.any() or truth.all():
        return {"auroc": None, "at": at(score, truth, threshold), "reaches": None, "curve": None}
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)  # of equal scores: all or none
    hits, n = np.cumsum(truth[order]), np.arange(1, len(order) + 1)
    enough = np.flatnonzero(last & (hits / n >= PRECISION))
    some = np.flatnonzero(last)[np.unique(np.linspace(0, last.sum() - 1, POINTS).round().astype(int))]
    return {
        "auroc": auroc(score, truth),
        "at": at(score, truth, threshold),
        "reaches": at(score, truth, float(score[order][enough[-1]])) if len(enough) else None,
        "curve": [at(score, truth, float(score[order][k])) for k in some],
    }


def at(score: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"], threshold: float) -> dict[str, Any]:
    """The `share` of the pairs at `threshold` or above, and which of them are of the same feature (`precision`).

    Also the shares of those of the same feature (`recall`), and of others (`false`), that are above. None where it is of none.
    """
    above = score >= threshold
    hits = int((above & truth).sum())
    return {
        "threshold": threshold,
        "share": float(above.mean()) if len(above) else None,
        "precision": hits / int(above.sum()) if above.any() else None,
        "recall": hits / int(truth.sum()) if truth.any() else None,
        "false": float((above & ~truth).sum() / (~truth).sum()) if (~truth).any() else None,
    }


def same_feature(a: Int[np.ndarray, " d_a"], b: Int[np.ndarray, " d_b"]) -> Bool[np.ndarray, "d_a d_b"]:
    """Which latents of two SAEs are the same true feature; −1 is none."""
    return (a[:, None] == b) & (a[:, None] >= 0)
