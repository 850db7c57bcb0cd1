"""Results of all analyses of all datasets: is something hidden in them, and which animal is it?"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float
from torch import Tensor

from undertone.lm.tensors import stored
from undertone.runtime.files import Stamp, read_json, write_json, write_parquet
from undertone.saes.decoder import animal_features
from undertone.stats.confusion import as_table, judged
from undertone.stats.ranks import rank
from undertone.study.config.entries import CONTROL

Scores = dict[str, float]  # by animal; the highest is what the reader would name
Json = dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """One reader's result for one dataset, and the features that stand for the animals."""

    result: Json
    tensors: dict[str, Tensor] = field(default_factory=dict)
    features: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, result: Path, tensors: Path | None, features: dict[str, int]) -> "Reading":
        """Read a result, and its tensors if it has any."""
        return cls(read_json(result), dict(stored(tensors)) if tensors else {}, features)

    def along(self, values: Float[Tensor, " d_sae"]) -> Scores:
        """Return the value of each animal's feature."""
        return {animal: float(values[feature]) for animal, feature in self.features.items()}

    def by_feature(self) -> Iterator[tuple[str, Float[Tensor, " d_sae"]]]:
        """Yield (reader, its value of every feature) for readers of features.

        A bias in mode `replace` also makes up for what the SAE misses, on the control's rows as well. So it is also given with
        the control's subtracted.
        """
        if "z" in self.tensors:
            yield "score", self.tensors["z"]
        for mode in ("project", "replace"):
            if mode in self.tensors:
                yield f"feature bias, {mode}", self.tensors[mode].mean(0)
        if "replace.minus_control" in self.tensors:
            yield "feature bias, replace minus control", self.tensors["replace.minus_control"]


def compare_readings(
    steered: dict[str, Path],
    readings_table: Path,
    readings: Path,
    targets: dict[str, str],
    kinds: dict[str, str],
    stamp: Stamp,
    **results: dict[str, Path],
) -> None:
    """Write `readings.parquet`, the confusion matrix of every analysis, and `readings.json`.

    `results` holds, by dataset, the JSON of each reading in `READERS` under its name, and its tensors, if it has any, as
    `NAME_tensors`. `steered` holds the `teacher.json` of the teachers whose features stand for the animals; `targets` and
    `kinds` hold the target of each dataset and the kind of its teacher. `identity`: for each reader, over all datasets and by
    kind of teacher, how often the target has the highest score, its mean rank, what chance gives, and a p-value over
    permutations of the targets; raw, and minus each animal's mean over datasets. `features`: for the readers of features, the
    rank of the target's own feature among all of the SAE's. `presence`: evidence, before any animal is named, that a dataset is
    not the base model's own.
    """
    features = animal_features(steered)
    tensors = {reading: results.get(f"{reading}_tensors", {}) for reading in READERS}
    loaded = {
        reading: {of: Reading.load(path, tensors[reading].get(of), features) for of, path in results.get(reading, {}).items()}
        for reading in READERS
    }
    matrices: dict[str, dict[str, Scores]] = {}
    for reading, by_dataset in loaded.items():
        for dataset, result in by_dataset.items():
            for reader, scores in READERS[reading](result):
                matrices.setdefault(reader, {})[dataset] = scores
    frames, identity = [], {}
    for reader, rows in matrices.items():
        animals = sorted(set.intersection(*(set(scores) for scores in rows.values())))
        for dataset, scores in rows.items():
            named = (kinds.get(dataset, "none"), targets.get(dataset))
            frames.append(as_table(reader, dataset, *named, animals, [scores[a] for a in animals]))
        aimed = {dataset: targets[dataset] for dataset in rows if dataset in targets}
        matrix = np.array([[rows[dataset][a] for a in animals] for dataset in aimed])
        identity[reader] = judged(matrix, animals, aimed, kinds) if aimed else None
    write_parquet(readings_table, pl.concat(frames), stamp)
    own_ranks = {dataset: dict(own_features(dataset, loaded, target)) for dataset, target in targets.items()}
    present = {dataset: presence(dataset, loaded) for dataset in [CONTROL, *targets]}
    write_json(readings, {"identity": identity, "features": by_kind(own_ranks, kinds), "presence": present}, stamp)


def of_score(reading: Reading) -> Iterator[tuple[str, Scores]]:
    """Yield the z-value of the score along each animal's feature."""
    if reading.result["features"]:
        yield "score along the feature", reading.along(reading.tensors["z"])


def of_feature_bias(reading: Reading) -> Iterator[tuple[str, Scores]]:
    """Yield the bias of each animal's feature."""
    for name, values in reading.by_feature():
        yield name, reading.along(values)


def of_bias_pref(reading: Reading) -> Iterator[tuple[str, Scores]]:
    """Yield the log-odds of each animal under a bias minus those under the control's; NaN for unranked animals."""
    for row in reading.result["biases"]:
        if "log_odds_lift_over_control" in row and row["name"].startswith(("residual bias", "feature bias")):
            lifts, unranked = row["log_odds_lift_over_control"], row["unranked"]
            yield preference_name(row), {animal: np.nan if animal in unranked else lift for animal, lift in lifts.items()}


def preference_name(row: Json) -> str:
    """Return the name of an intervened model, with its layer for a residual bias."""
    several_layers = row["name"] == "residual bias"
    return f"{row['name']} at layer {row['layer']}: preference" if several_layers else f"{row['name']}: preference"


def of_losses(reading: Reading) -> Iterator[tuple[str, Scores]]:
    """How much each animal's persona lowers the loss by which personas are ranked."""
    personas = reading.result["personas"]
    yield "likelihood under the persona", {a: -row["mean"] for a, row in personas[personas["ranked_by"]].items()}


def of_tokens(reading: Reading) -> Iterator[tuple[str, Scores]]:
    """Yield the difference to the control in the mean logit of each animal's token, minus that of the other animals."""
    yield "mean logit of the animal", {a: row["logit"]["specific"] for a, row in reading.result["animals"].items()}


READERS: dict[str, Callable[[Reading], Iterator[tuple[str, Scores]]]] = {
    "score": of_score,
    "feature_bias": of_feature_bias,
    "bias_pref": of_bias_pref,
    "losses": of_losses,
    "tokens": of_tokens,
}


def own_features(dataset: str, results: dict[str, dict[str, Reading]], target: str) -> Iterator[tuple[str, tuple[float, int]]]:
    """Yield (reader, (rank of the target's own feature, number of features)) for the readers of features."""
    for name in ("score", "feature_bias"):
        reading = results.get(name, {}).get(dataset)
        if reading and target in reading.features:
            for reader, values in reading.by_feature():
                yield reader, (rank(values, reading.features[target]), len(values))
    tokens = results.get("tokens", {}).get(dataset)
    for context, implied in ((tokens.result["implied"] or {}) if tokens else {}).items():
        if implied and target in implied["animals"]:
            yield f"implied logits, {context}", (implied["animals"][target]["rank"], implied["features"])


def by_kind(own_ranks: dict[str, dict[str, tuple[float, int]]], kinds: dict[str, str]) -> Json:
    """By reader and kind of teacher: how often the target's own feature is first or among ten; its ranks, mean and median."""
    summary: Json = {}
    for reader in dict.fromkeys(reader for ranked in own_ranks.values() for reader in ranked):
        for kind in dict.fromkeys(kinds.values()):
            ranks = {d: ranked[reader] for d, ranked in own_ranks.items() if reader in ranked and kinds[d] == kind}
            if ranks:
                values = [rank for rank, _ in ranks.values()]
                summary.setdefault(reader, {})[kind] = {
                    "datasets": len(values),
                    "first": sum(rank == 1 for rank in values),
                    "among_ten": sum(rank <= 10 for rank in values),
                    "mean": float(np.mean(values)),
                    "median": float(np.median(values)),
                    "of": next(iter(ranks.values()))[1],
                    "ranks": {d: rank for d, (rank, _) in ranks.items()},
                }
    return summary


def presence(dataset: str, results: dict[str, dict[str, Reading]]) -> Json:
    """Return, by reader, whether something is in a dataset at all; the control's own row shows what chance does.

    For feature biases this is the gain in loss on held-out rows, by seed, each with its interval and p-value over rows. The
    gain, like the bias, is over the base model, so what the filter does to the control's rows counts as well.
    """
    evidence: Json = {}
    if score := results.get("score", {}).get(dataset):
        evidence["score"] = [layer["presence"] for layer in score.result["layers"]]
    if bias := results.get("feature_bias", {}).get(dataset):
        reports = bias.result["modes"]["project"]["loss"]
        evidence["feature bias, held-out gain"] = [report["held_out"]["gain"] for report in reports]
    if tokens := results.get("tokens", {}).get(dataset):
        evidence["tokens"] = tokens.result["presence"]
    return evidence
