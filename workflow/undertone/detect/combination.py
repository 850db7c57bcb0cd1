"""All detectors together: which candidate they point to, whatever the kind of teacher.

A conditional logit (McFadden 1974) over a dataset's candidates: the probability of a candidate is proportional to
exp(Σ weight · feature). Its weights are fitted on development datasets, and said by

    python -m undertone.detect.combination results results/tables/detection.parquet [other tables …]

with the place of each target where the weights are fitted on the datasets of all other targets.
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
# Gains of different rounds are not to be compared, so this detector counts by places, all others by scores.
BY_PLACE = "personas"
# Of the squared weights, in the fit: a few weights and some tens of datasets.
PENALTY = 0.05


def features(rankings: Mapping[str, Sequence[Json]]) -> tuple[list[str], Float[np.ndarray, "n_candidates n_detectors"]]:
    """The candidates and what each of `RANKERS` says of them.

    Of system prompts minus the logarithm of the place among candidates, decoys left out; of the others the score in standard
    deviations over the candidates.
    """
    candidates = [each["concept"] for each in rankings["gradient"]]
    return candidates, np.stack([feature(name, rankings[name], candidates) for name in RANKERS], axis=1)


def feature(detector: str, ranking: Sequence[Json], candidates: Sequence[str]) -> Float[np.ndarray, " n_candidates"]:
    """What a detector says of each candidate."""
    if detector == BY_PLACE:
        places = {each["concept"]: place for place, each in enumerate(ranking)}
        return -np.log(rankdata([places[each] for each in candidates]))
    scores = {each["concept"]: each["score"] for each in ranking}
    values = np.array([scores[each] for each in candidates])
    return (values - values.mean()) / (values.std() or 1.0)


def combined(rankings: Mapping[str, Sequence[Json]], weights: Mapping[str, float]) -> list[Json]:
    """Candidates from the most probable one on: {concept, probability}, of the logit with each detector's weight."""
    candidates, values = features(rankings)
    scores = values @ np.array([weights[name] for name in RANKERS])
    p = np.exp(scores - np.logaddexp.reduce(scores))
    return [{"concept": candidates[k], "probability": float(p[k])} for k in np.argsort(-p, kind="stable")]


def fit(
    values: Float[np.ndarray, "n_datasets n_candidates n_detectors"], targets: Sequence[int]
) -> Float[np.ndarray, " n_detectors"]:
    """The weights, none below 0, of the greatest mean log-likelihood of the targets less a penalty on their squares."""
    rows = np.arange(len(values))

    def loss(weights: np.ndarray) -> float:
        scores = values @ weights
        gained = scores[rows, list(targets)] - np.logaddexp.reduce(scores, axis=1)
        return float(-gained.mean() + PENALTY / 2 * np.square(weights).sum())

    n = values.shape[2]
    fitted: np.ndarray = minimize(loss, np.ones(n), bounds=[(0, None)] * n).x
    return fitted


def left_out(values: Float[np.ndarray, "n_datasets n_candidates n_detectors"], targets: Sequence[int]) -> list[int]:
    """The place of each dataset's target, from 1, by weights of the datasets of all other targets."""
    places = []
    for k, target in enumerate(targets):
        others = [j for j, other in enumerate(targets) if other != target]
        scores = values[k] @ fit(values[others], [targets[j] for j in others])
        places.append(int((scores > scores[target]).sum()) + 1)
    return places


def main() -> None:
    """Print the weights and the places that `left_out` gives."""
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
