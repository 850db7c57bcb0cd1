"""A contrast made and added at every layer: where it raises its target, and its side effects on text at an equal lift."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from undertone.lm.chat import Row
from undertone.lm.hooks import decoder_layers
from undertone.lm.loading import LoadedModel
from undertone.study.config.measure import Pref
from undertone.study.config.vectors import Dose, MakeVector, Vector
from undertone.vectors.origins import asked, of_contrast
from undertone.vectors.responses import judge, responses
from undertone.vectors.steering_by import Direction
from undertone.vectors.streams_of_text import residuals_of, text_rows
from undertone.vectors.vector import nulls_of

# What is kept of each scale; preferences and texts are only written for the vector's own layer.
KEPT = ("scale", "lift", "kl", "loss", "p", "above_null", "nulls")


def by_layer(
    loaded: LoadedModel,
    contrast: Mapping[str, Any],
    text: Path,
    rows: Sequence[Row],
    prompts: Path,
    questions: Path,
    settings: Dose,
    pref: Pref,
) -> dict[str, Any]:
    """Return what each layer's own contrast does there, against its own null vectors, and its KL at a lift that all reach.

    `contrast` holds the settings that the vector is made with; KL and loss are on the text `rows`.
    """
    making = MakeVector.model_validate(contrast["vector"])
    entry, read = Vector.model_validate(contrast["entry"]), text_rows(loaded, text, making.tokens)
    sides = asked(loaded, dict(contrast), prompts, questions, making)
    layers = []
    for layer in range(len(decoder_layers(loaded.model))):
        generator = torch.Generator().manual_seed(making.seed)
        here = entry.model_copy(update={"layer": layer})
        made = of_contrast(loaded, here, sides, making, generator)
        residuals = residuals_of(loaded, read, layer, making.max_norm)
        nulls = nulls_of(made, here, residuals, making, generator)
        mean_norm, tensors = float(residuals.norm(dim=-1).mean()), {"vector": made.vector, **nulls}
        direction = Direction.of(contrast["target"], layer, entry.positions, mean_norm, made.null_of, tensors)
        _, scales = responses(loaded, direction, rows, questions, settings, pref, f"layer {layer}")
        judged = judge(scales, direction.target, settings.max_kl)
        size = {"mean_norm": direction.mean_norm, "vector_scale": direction.norm / direction.mean_norm}
        kept = [{key: row.get(key) for key in KEPT} for row in scales]
        layers.append({"layer": layer, **size, **judged, "scales": kept})
    return at_equal_lift(layers, settings.max_kl)


def at_equal_lift(layers: list[dict[str, Any]], max_kl: float) -> dict[str, Any]:
    """Return the layers, each with its `kl` at `equal_lift`: the greatest lift that every layer with a window reaches in it.

    `kl` is None for a layer without a window, where a lift means nothing, and for all layers if none has a window.
    """
    best = {layer["layer"]: greatest(layer, max_kl) for layer in layers if layer["window"]}
    lift = min((row["lift"]["mean"] for row in best.values()), default=None)
    return {
        "equal_lift": lift,
        "max_kl": max_kl,
        "layers": [
            layer | {"kl": None if lift is None or layer["layer"] not in best else kl_at(layer, best[layer["layer"]], lift)}
            for layer in layers
        ],
    }


def greatest(layer: Mapping[str, Any], max_kl: float) -> Mapping[str, Any]:
    """The scale of a layer's window with the greatest lift."""
    within = [row for row in layer["scales"] if row["scale"] in layer["window"] and row["kl"] <= max_kl]
    return max(within, key=lambda row: row["lift"]["mean"])


def kl_at(layer: Mapping[str, Any], best: Mapping[str, Any], lift: float) -> float:
    """Return the KL where a layer's lift first reaches `lift`, interpolated linearly from no vector towards its best scale."""
    towards = sorted((row for row in layer["scales"] if row["scale"] * best["scale"] > 0), key=lambda row: abs(row["scale"]))
    lower = {"lift": 0.0, "kl": 0.0}
    for row in towards:
        here = row["lift"]["mean"]
        if here >= lift:
            share = (lift - lower["lift"]) / (here - lower["lift"])
            return float(lower["kl"] + share * (row["kl"] - lower["kl"]))
        lower = {"lift": here, "kl": row["kl"]}
    raise ValueError(f"layer {layer['layer']} has no lift of {lift:g} up to its best scale {best['scale']:g}")
