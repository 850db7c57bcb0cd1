"""Which true features an SAE recovers: latents of the same direction and sign that fire at the same places."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from undertone.stats.stats import share_interval

# Bins of equally many features, by how often they fire.
BINS = 8


@dataclass(frozen=True)
class Known:
    """True features: their unit directions, and where each fires."""

    directions: Float[np.ndarray, "n d_model"]
    fires: csr_array


@dataclass(frozen=True)
class Dictionary:
    """An SAE's unit decoder rows, and where each latent fires on the same samples."""

    rows: Float[np.ndarray, "d_sae d_model"]
    fires: csr_array


def one_to_one(cosines: Float[np.ndarray, "n d_sae"]) -> Int[np.ndarray, " n"]:
    """Return each true feature's latent, one to one at the greatest total cosine, or −1 for a feature that is left over.

    Cosines keep their signs: a latent that points away from a feature has not found it, whatever its absolute cosine.
    """
    latent = np.full(len(cosines), -1)
    rows, columns = linear_sum_assignment(-cosines)
    latent[rows] = columns
    return latent


def heights(cosines: Float[np.ndarray, "n d_sae"], latent: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The cosine of each true feature with its latent; NaN without one."""
    return np.where(latent >= 0, cosines[np.arange(len(latent)), latent], np.nan)


def detection(
    together: Float[np.ndarray, "n d_sae"],
    there: Float[np.ndarray, " n"],
    said: Float[np.ndarray, " d_sae"],
    latent: Int[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return precision and recall of each true feature's latent as a detector: "the feature fires where the latent does".

    `together` counts samples on which both fire; `there` and `said` count those on which each feature, and each latent, fires.
    Both are 0 if a feature has no latent, or one that never fires.
    """
    hits = together[np.arange(len(latent)), latent] * (latent >= 0)
    return hits / np.maximum(said[latent], 1), hits / np.maximum(there, 1)


def joint(known: csr_array, fires: csr_array) -> Float[np.ndarray, "n d_sae"]:
    """Count the samples on which a true feature and a latent both fire."""
    return np.asarray(((known > 0).astype(np.float64).T @ (fires > 0).astype(np.float64)).toarray())


def counts(acts: csr_array) -> Float[np.ndarray, " n"]:
    """Count the samples on which each column fires."""
    return np.asarray((acts > 0).sum(0), dtype=np.float64).ravel()


def read(known: Known, dictionary: Dictionary) -> dict[str, Any]:
    """Return, for each true feature, its `latent`, their `cosine`, and the latent's `precision` and `recall`."""
    return of_directions(known.directions @ dictionary.rows.T, *firing(known, dictionary))


def firing(
    known: Known, dictionary: Dictionary
) -> tuple[Float[np.ndarray, "n d_sae"], Float[np.ndarray, " n"], Float[np.ndarray, " d_sae"]]:
    """Count the samples on which a feature and a latent both fire, and those on which each fires."""
    return joint(known.fires, dictionary.fires), counts(known.fires), counts(dictionary.fires)


def of_directions(
    cosines: Float[np.ndarray, "n d_sae"],
    together: Float[np.ndarray, "n d_sae"],
    there: Float[np.ndarray, " n"],
    said: Float[np.ndarray, " d_sae"],
) -> dict[str, Any]:
    """Return what `read` returns, from cosines and counts."""
    latent = one_to_one(cosines)
    precision, recall = detection(together, there, said, latent)
    return {"latent": latent, "cosine": heights(cosines, latent), "precision": precision, "recall": recall}


def summed(of: dict[str, Any], least: float) -> dict[str, float]:
    """Return `mcc`, `recovered`, and the mean `precision` and `recall`.

    `mcc` is the mean cosine of features that have a latent; `recovered` is the share of all features with a cosine of `least`
    or more.
    """
    return {
        "mcc": float(np.nanmean(of["cosine"])),
        "recovered": float((of["cosine"] >= least).mean()),
        "precision": float(of["precision"].mean()),
        "recall": float(of["recall"].mean()),
    }


def permuted(known: Known, dictionary: Dictionary, least: float, draws: int, seed: int) -> dict[str, dict[str, float]]:
    """Return the null of `summed`, for another truth: `mean` and .95 quantile over draws.

    A draw permutes the coordinates of all true directions alike, so that they keep their angles to each other but are unrelated
    to what the SAE read. Each feature gets the places where another feature fires.
    """
    rng = np.random.default_rng(seed)
    together, there, said = firing(known, dictionary)
    n, d = known.directions.shape
    rows = []
    for _ in range(draws):
        cosines, other = known.directions[:, rng.permutation(d)] @ dictionary.rows.T, rng.permutation(n)
        rows.append(summed(of_directions(cosines, together[other], there[other], said), least))
    values = {name: [row[name] for row in rows] for name in rows[0]}
    return {name: {"mean": float(np.mean(of)), "q95": float(np.quantile(of, 0.95))} for name, of in values.items()}


def by_rate(rate: Float[np.ndarray, " n"], recovered: Bool[np.ndarray, " n"]) -> list[dict[str, Any]]:
    """Return the share of recovered features, with 95 % intervals, in bins of equally many features, the most frequent last."""
    bins = []
    for part in np.array_split(np.argsort(rate, kind="stable"), min(BINS, len(rate))):
        k, n = int(recovered[part].sum()), len(part)
        bins.append({"rate": float(rate[part].mean()), "n": n, "share": k / n, "ci95": list(share_interval(k, n))})
    return bins


def identity(cosines: Float[np.ndarray, "n d_sae"], least: float) -> Int[np.ndarray, " d_sae"]:
    """Return the true feature that each latent is: that of greatest cosine, or −1 if the cosine is below `least`."""
    nearest = cosines.argmax(0)
    return np.where(cosines[nearest, np.arange(cosines.shape[1])] >= least, nearest, -1)


def same_firing(known: csr_array, fires: csr_array, least: float) -> Int[np.ndarray, " d_sae"]:
    """Return the true feature that each latent is by where it fires: that of greatest F1, or −1 if the F1 is below `least`."""
    return identity(2 * joint(known, fires) / np.maximum(counts(known)[:, None] + counts(fires), 1), least)
