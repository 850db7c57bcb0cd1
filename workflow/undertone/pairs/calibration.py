"""How far the numbers that say "shared" can be trusted, if it is known which latents of two SAEs are the same true feature."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from undertone.pairs.best_matches import Halves, counts, scored
from undertone.stats.ranks import auroc

# Precision of the threshold to be sought: the share of the pairs above it that are the same feature.
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
    """Measure how well `cosine`, and `r` on half 1, tell which pairs are the same feature.

    Pairs are matched one to one on half 0. `cosines` holds the lesser of decoder and encoder cosine. `same` holds masks, by the
    name of what counts as the same. `by_chance` is the .95 quantile of r of pairs in shifted samples.
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
    """Return a score's `auroc`, its figures `at` the threshold, and its `curve` over all thresholds.

    `reaches` holds the figures at the least threshold with a precision of `PRECISION`. All but `at` are None if all pairs, or
    none, are the same feature.
    """
    if not truth.any() or truth.all():
        return {"auroc": None, "at": at(score, truth, threshold), "reaches": None, "curve": None}
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)  # pairs of equal score are above a threshold together
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
    """Return the figures of a score at a threshold; a share of nothing is None.

    `share`: of the pairs, those at or above the threshold. `precision`: of these, the same feature. `recall` and `false`: of
    the pairs that are the same feature, and of the others, those at or above it.
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
    """Return which latents of two SAEs are the same true feature; −1 is no feature."""
    return (a[:, None] == b) & (a[:, None] >= 0)
