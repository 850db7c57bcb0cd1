"""How a vector changes the cloud of activations: the same tokens before and after, and null vectors of the same size."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float
from sae_lens import SAE

from undertone.lab.layout import fitted_layout
from undertone.lm.chat import Row
from undertone.lm.hooks import decoder_layers
from undertone.lm.loading import LoadedModel, load
from undertone.lm.steering import Steering
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, read_json, write_json, write_parquet
from undertone.runtime.progress import progress
from undertone.saes.saved import load_sae
from undertone.stats.similarities import (
    Measure,
    Order,
    beside_chance,
    cka,
    cosine_ranks,
    neighbours,
    neighbours_of,
    procrustes,
    rsa_of,
)
from undertone.stats.stats import p_value
from undertone.study.config.vectors import Cloud, Downstream
from undertone.vectors.forced import Tokens, batches, run_once, unbuilt
from undertone.vectors.steering_by import Direction, strength

# A layout needs at least this many points.
LEAST = 10
Points = Float[np.ndarray, "n d"]


class Place(NamedTuple):
    """Where activations are read: the residual stream after a layer, or an SAE's features of it."""

    layer: int
    sae: str | None


def compare_clouds(
    model: Path,
    prompts: Path,
    questions: Path,
    vector: Path,
    dose: Path,
    saes: dict[str, Path],
    cloud: Path,
    table: Path,
    reading: Downstream,
    settings: Cloud,
    used_prompts: int,
    stamp: Stamp,
) -> str:
    """Write how similar the same tokens' activations are before and after steering, and `table`, their layout.

    Returns a line for the log. Tokens and strength are those of `downstream`. Clouds are compared around their means: a shift
    of all tokens alike is no change of the cloud.
    """
    loaded, direction = load(model), Direction.read(vector)
    scale, has_window = strength(read_json(dose), reading.scale)
    rows = unbuilt(loaded, prompts, questions, used_prompts, reading)
    read = Reading(loaded, rows, direction.layer, {name: load_sae(path, loaded) for name, path in saes.items()}, settings)
    base = read.points(None)
    after = read.points(direction.steering(direction.unit.to(loaded.model.device), scale))
    nulls = [direction.steering(unit.to(loaded.model.device), scale) for units in direction.nulls.values() for unit in units]
    body = {
        "target": direction.target,
        "layer": direction.layer,
        "scale": scale,
        "window": has_window,
        "rows": len(rows),
        "tokens": read.n,
        "null_vectors": len(nulls),
        "clouds": beside_nulls(read, base, after, nulls, settings),
    }
    last = Place(read.layers[-1], None)
    write_parquet(table, placed(read, base[last], after[last], settings), stamp)
    write_json(cloud, body, stamp)
    return sentence(body)


class Reading:
    """Activations at some of the tokens that predict an answer, the same tokens at every call.

    `saes` are SAEs at the vector's layer or later, with their layers. Raises ConfigError if there are too few tokens.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        rows: Sequence[Row],
        layer: int,
        saes: dict[str, tuple[SAE[Any], int]],
        settings: Cloud,
    ):
        self.loaded, self.saes = loaded, saes
        self.layers = range(layer, len(decoder_layers(loaded.model)))
        self.batches = batches(loaded, rows)
        last = torch.cat([Tokens.of(batch).last for batch in self.batches]).cpu().numpy()
        if len(last) <= (least := max(settings.k, LEAST)):
            raise ConfigError(
                f"{len(last)} tokens predict the answers to {len(rows)} prompts, expected more than {least}: raise "
                "downstream.rows or downstream.new_tokens, or lower cloud.k"
            )
        drawn = np.random.default_rng(settings.seed).permutation(len(last))[: settings.tokens]
        self.kept: Bool[np.ndarray, " n_tokens"] = np.isin(np.arange(len(last)), drawn)
        self.last, self.n = last[self.kept], len(drawn)

    @torch.no_grad()
    def points(self, steering: Steering | None) -> dict[Place, Points]:
        """Return the activations of one run, steered or not, without centring."""
        parts: dict[Place, list[Points]] = {}
        start = 0
        for batch in self.batches:
            streams = run_once(self.loaded, batch, self.layers, steering).residual
            stop = start + len(streams[self.layers[0]])
            kept = torch.from_numpy(self.kept[start:stop])
            residuals = {layer: stream[kept.to(stream.device)] for layer, stream in streams.items()}
            for layer, residual in residuals.items():
                parts.setdefault(Place(layer, None), []).append(residual.double().cpu().numpy())
            for name, (sae, layer) in self.saes.items():
                parts.setdefault(Place(layer, name), []).append(sae.encode(residuals[layer]).double().cpu().numpy())
            start = stop
        return {
            at: np.concatenate(each) for at, each in sorted(parts.items(), key=lambda item: (item[0].layer, item[0].sae or ""))
        }


@dataclass(frozen=True)
class Shape:
    """A cloud around its mean, with what its comparison needs; `is_point` if all of its points are the same."""

    x: Points
    ranks: Float[np.ndarray, "n n"]
    near: Bool[np.ndarray, "n n"]
    k: int
    is_point: bool

    @classmethod
    def of(cls, points: Points, k: int) -> "Shape":
        """Return the shape of points that are not centred."""
        x = points - points.mean(0)
        return cls(x, cosine_ranks(x), neighbours(x, k), k, not np.ptp(points, axis=0).any())


def beside_nulls(
    read: Reading, base: dict[Place, Points], after: dict[Place, Points], nulls: Sequence[Steering], settings: Cloud
) -> list[dict[str, Any]]:
    """Compare the clouds before and after at each place, against null vectors, which are run one after the other."""
    shapes = {at: Shape.of(points, settings.k) for at, points in base.items()}
    by_null: list[dict[Place, dict[str, float]]] = []
    with progress(len(nulls), "cloud", "null vector") as bar:
        for null in nulls:
            by_null.append({at: values(shapes[at], Shape.of(x, settings.k)) for at, x in read.points(null).items()})
            bar.update()
    rng = np.random.default_rng(settings.seed)
    orders = [rng.permutation(read.n) for _ in range(settings.shuffles)]
    return [
        {
            "layer": at.layer,
            "sae": at.sae,
            "measures": compared(shape, Shape.of(after[at], settings.k), [null[at] for null in by_null], orders),
        }
        for at, shape in shapes.items()
    ]


def measures(a: Shape, b: Shape) -> dict[str, Measure]:
    """Return every similarity measure of two clouds; none if one of them is a point."""
    if a.is_point or b.is_point:
        return {}
    return {
        "cka": cka(a.x, b.x),
        "rsa": rsa_of(a.ranks, b.ranks),
        "knn": neighbours_of(a.near, b.near, a.k),
        "procrustes": procrustes(a.x, b.x),
    }


def values(a: Shape, b: Shape) -> dict[str, float]:
    """Return the value of each measure."""
    same = np.arange(len(a.x))
    return {name: measure(same) for name, measure in measures(a, b).items()}


def compared(base: Shape, own: Shape, nulls: Sequence[dict[str, float]], orders: Sequence[Order]) -> dict[str, Any] | None:
    """Return each measure against shuffled tokens, and against null vectors (`vectors`); None if either cloud is a point.

    `vectors.p` is one-sided: how often a null vector leaves the clouds at least as dissimilar.
    """
    result = {}
    for name, measure in measures(base, own).items():
        seen = beside_chance(measure, len(base.x), orders)
        null = np.array([of[name] for of in nulls if name in of])
        if len(null):
            ends = {f"quantile_{q:02d}": float(np.quantile(null, q / 100)) for q in (5, 95)}
            seen["vectors"] = {"mean": float(null.mean()), **ends, "p": float(p_value(-seen["value"], -null))}
        result[name] = seen
    return result or None


def placed(read: Reading, base: Points, after: Points, settings: Cloud) -> pl.DataFrame:
    """Return where tokens lie before and after steering, in one layout fitted on the tokens before it."""
    place = fitted_layout(base, "euclidean", settings.n_neighbors, settings.min_dist, settings.seed)
    before, behind = place(None), place(after)
    columns = {"x": before[:, 0], "y": before[:, 1], "steered_x": behind[:, 0], "steered_y": behind[:, 1]}
    return pl.DataFrame({"layer": read.layers[-1], "last": read.last, **columns})


def sentence(body: dict[str, Any]) -> str:
    """Say for the log how similar the clouds are after the last layer."""
    last = [each for each in body["clouds"] if each["sae"] is None][-1]
    if last["measures"] is None:
        return "all tokens have the same activations"
    said = []
    for name, of in last["measures"].items():
        null = f" (null vectors {of['vectors']['mean']:.2f})" if "vectors" in of else ""
        said.append(f"{name} {of['value']:.2f}{null}")
    return f"{body['tokens']} tokens after layer {last['layer']}, before and after steering: {', '.join(said)}"
