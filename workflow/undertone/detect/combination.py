"""Combine all detectors into one ranking of candidates, whatever the kind of teacher.

The model is a conditional logit (McFadden 1974) over a dataset's candidates: the probability of a candidate is proportional to
exp(Σ weight · feature). The weights are fitted on development datasets. This command prints them:

    python -m undertone.detect.combination results results/tables/detection.parquet [other tables …]

It also prints the place of each dataset's target under weights fitted on the datasets of all other targets.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.stats import rankdata

from undertone.runtime.files import read_json
from undertone.study.config.detect import RANKERS

Json = dict[str, Any]
# Gains of different rounds are not comparable, so this detector enters by its places, all others by their scores.
BY_PLACE = "personas"
# Factor of the L2 penalty on the weights in the fit, which has a few weights and some tens of datasets.
PENALTY = 0.05


def features(rankings: Mapping[str, Sequence[Json]]) -> tuple[list[str], Float[np.ndarray, "n_candidates n_detectors"]]:
    """Return the candidates and their features, one for each detector of `RANKERS`.

    The feature of `personas` is minus the logarithm of the place among candidates, without decoys. The others' is the score,
    standardised over the candidates.
    """
    candidates = [each["concept"] for each in rankings["gradient"]]
    return candidates, np.stack([feature(name, rankings[name], candidates) for name in RANKERS], axis=1)


def feature(detector: str, ranking: Sequence[Json], candidates: Sequence[str]) -> Float[np.ndarray, " n_candidates"]:
    """Return one detector's feature of each candidate; see `features`."""
    if detector == BY_PLACE:
        places = {each["concept"]: place for place, each in enumerate(ranking)}
        return -np.log(rankdata([places[each] for each in candidates]))
    scores = {each["concept"]: each["score"] for each in ranking}
    values = np.array([scores[each] for each in candidates])
    return (values - values.mean()) / (values.std() or 1.0)


def combined(rankings: Mapping[str, Sequence[Json]], weights: Mapping[str, float]) -> list[Json]:
    """Rank candidates by the logit with these weights: {concept, probability}, the most probable first."""
    candidates, values = features(rankings)
    scores = values @ np.array([weights[name] for name in RANKERS])
    p = np.exp(scores - np.logaddexp.reduce(scores))
    return [{"concept": candidates[k], "probability": float(p[k])} for k in np.argsort(-p, kind="stable")]


def fit(
    values: Float[np.ndarray, "n_datasets n_candidates n_detectors"], targets: Sequence[int]
) -> Float[np.ndarray, " n_detectors"]:
    """Fit non-negative weights that maximise the mean log-likelihood of the targets minus an L2 penalty."""
    rows = np.arange(len(values))

    def loss(weights: np.ndarray) -> float:
        scores = values @ weights
        gained = scores[rows, list(targets)] - np.logaddexp.reduce(scores, axis=1)
        return float(-gained.mean() + PENALTY / 2 * np.square(weights).sum())

    n = values.shape[2]
    fitted: np.ndarray = minimize(loss, np.ones(n), bounds=[(0, None)] * n).x
    return fitted


def left_out(values: Float[np.ndarray, "n_datasets n_candidates n_detectors"], targets: Sequence[int]) -> list[int]:
    """Return the place of each dataset's target, from 1, under weights fitted on the datasets of all other targets."""
    places = []
    for k, target in enumerate(targets):
        others = [j for j, other in enumerate(targets) if other != target]
        scores = values[k] @ fit(values[others], [targets[j] for j in others])
        places.append(int((scores > scores[target]).sum()) + 1)
    return places


def main() -> None:
    """Print the fitted weights, and the places from `left_out`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path, help="the results root")
    parser.add_argument("tables", type=Path, nargs="+", help="detection.parquet of one or more studies of that root")
    arguments = parser.parse_args()
    table = pl.concat(pl.read_parquet(path) for path in arguments.tables).unique("dataset", maintain_order=True)
    table = table.filter(pl.col("development") & (pl.col("tier") != "no statement"))
    said, targets = [], []
    for dataset, target in table.select("dataset", "target").iter_rows():
        sets = {name: read_json(arguments.results / dataset / f"{name}.json")["sets"][0]["ranking"] for name in RANKERS}
        candidates, values = features(sets)
        order = np.argsort(candidates)
        said.append(values[order])
        targets.append(sorted(candidates).index(target))
    values = np.array(said)
    for name, weight in zip(RANKERS, fit(values, targets), strict=True):
        print(f"{name}: {weight:.2f}")
    for dataset, place in zip(table["dataset"], left_out(values, targets), strict=True):
        print(f"{dataset}: {place}")


if __name__ == "__main__":
    main()
