"""Whether one model's steering vector has the same effect in another model, once it is rotated into the other's axes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from undertone.lm.chat import Row
from undertone.pairs.activity import Side, read_sides
from undertone.pairs.rotation import Map, Streams, by_chance, fitted
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, read_json, write_json
from undertone.study.config.measure import Pref
from undertone.study.config.pair_settings import Matches, Rotation
from undertone.study.config.vectors import Dose, MakeVector, Vector
from undertone.vectors.origins import against, asked, of_contrast
from undertone.vectors.responses import compared, judge, null_lifts
from undertone.vectors.side_effects import side_effects
from undertone.vectors.steering_by import Direction, preferences, strength
from undertone.vectors.streams_of_text import text_rows
from undertone.vectors.vector import orthogonal

# Name of the null vectors that are the vector itself, through rotations fitted on text that does not belong together.
SHIFTED = "rotations of shifted text"
Json = dict[str, Any]


def transplant_vector(
    models: Sequence[Path],
    saes: Sequence[Path],
    texts: Sequence[Path],
    vector: Path,
    dose: Path,
    prompts: Path | None,
    questions: Path,
    transplant: Path,
    matching: Matches,
    rotation: Rotation,
    dosing: Dose,
    pref: Pref,
    making: MakeVector,
    settings: Json,
    stamp: Stamp,
) -> str:
    """Write what model a's vector does in model b after a rotation fitted on text; return a line for the log.

    `vector` and `dose` are of model a, at the layer of its SAE; another layer raises ConfigError. In b the vector has the same
    length in mean norms of the residual stream, at the same tokens. It is compared with its null vectors, rotated alike; with
    b's own contrast of the same prompts, if the vector is a contrast or `pca`; with the vector as it is, if widths are equal;
    and with the vector through the affine map.
    """
    direction, measured = Direction.read(vector), read_json(dose)
    aligned, a, b, _ = read_sides(models, saes, texts, matching.tokens, matching.max_norm)
    if direction.layer != a.layer:
        raise ConfigError(
            f"the vector is of layer {direction.layer}, expected {a.layer}, that of SAE a, where the models are turned"
        )
    there = moved(direction, a, b)
    tried = ways(there, Streams.of(aligned, a, b), rotation)
    own = own_contrast(there, b, prompts, questions, making, settings)
    effects = Effects(b, questions, text_rows(b.loaded, texts[1], dosing.tokens), dosing, pref)
    scale, _ = strength(measured, None)
    body = {
        "vector": vector.parent.name.removeprefix("vector-"),
        "target": direction.target,
        "layers": [a.layer, b.layer],
        "mean_norms": [direction.mean_norm, there.mean_norm],
        "scale": scale,
        "in_a": {"window": measured["window"], "verdict": measured["verdict"], "scales": positive(measured, dosing)},
        "in_b": {name: effects.of(each) for name, each in tried.items()} | {"own": effects.of(own) if own else None},
        "cosine_with_own": cosine(tried["turned"], own) if own else None,
    }
    write_json(transplant, body, stamp)
    return sentence(body)


def moved(direction: Direction, a: Side, b: Side) -> Direction:
    """Move the vector to b's layer, still in a's axes, as long relative to mean residual norms at the same tokens."""
    norms = [float(np.linalg.norm(side.residuals, axis=1).mean()) for side in (a, b)]
    return replace(direction, layer=b.layer, mean_norm=direction.mean_norm * norms[1] / norms[0])


def through(direction: Direction, turn: Map) -> Direction:
    """Map a vector and its null vectors to b's axes; the means of a map cancel in a difference."""
    back = torch.from_numpy(turn.back).float()

    def turned(units: Float[Tensor, "... d_a"]) -> Float[Tensor, "... d_b"]:
        return normalize(units @ back, dim=-1)

    nulls = {f"{kind}, turned": turned(units) for kind, units in direction.nulls.items()}
    return replace(direction, unit=turned(direction.unit), nulls=nulls)


def ways(there: Direction, streams: Streams, rotation: Rotation) -> dict[str, Direction]:
    """Return the vector rotated (`turned`, with nulls), as it is (`identity`, for equal widths), and through the affine map."""
    maps, alone = fitted(streams, rotation), replace(there, nulls={})
    turned = through(there, maps["procrustes"])
    shifted = torch.stack([through(alone, each).unit for each in by_chance(streams, rotation)])
    others = {name: through(alone, each) for name, each in maps.items() if name in ("identity", "ridge")}
    return {"turned": replace(turned, nulls={**turned.nulls, SHIFTED: shifted}), **others}


def own_contrast(
    there: Direction, b: Side, prompts: Path | None, questions: Path, making: MakeVector, settings: Json
) -> Direction | None:
    """Return what the vector's own prompts give in model b, with nulls of shuffled labels; None for other kinds of vectors."""
    entry = Vector.model_validate(settings["entry"])
    if entry.kind not in ("contrast", "pca"):
        return None
    sides = asked(b.loaded, settings, prompts, questions, making)
    generator = torch.Generator().manual_seed(making.seed)
    made = of_contrast(b.loaded, entry.model_copy(update={"layer": b.layer}), sides, making, generator)
    drawn = orthogonal(made.null, made.vector)
    nulls = {"shuffled labels": normalize(drawn, dim=-1)} if len(drawn) else {}
    return replace(there, unit=normalize(made.vector, dim=0), norm=float(made.vector.norm()), nulls=nulls)


class Effects:
    """Effects of vectors in model b at the positive scales of a dose."""

    def __init__(self, b: Side, questions: Path, rows: Sequence[Row], dosing: Dose, pref: Pref):
        self.loaded, self.questions, self.rows, self.dosing, self.pref = b.loaded, questions, rows, dosing, pref
        self.measure = preferences(b.loaded, questions, pref, pref.candidates)
        self.base = self.measure(None)

    def of(self, direction: Direction) -> Json:
        """Return the lift, its nulls, KL and loss by scale, and, if there are null vectors, their judgement as in a dose."""
        device = self.loaded.model.device
        steerings = [direction.steering(direction.unit.to(device), scale) for scale in self.dosing.scales]
        everywhere = [direction.steering(direction.unit.to(device), scale, everywhere=True) for scale in self.dosing.scales]
        lifts = null_lifts(self.loaded, self.questions, self.pref, direction)
        effects = side_effects(self.loaded, self.rows, everywhere)[1:]
        rows = [
            {
                "scale": scale,
                **compared(self.measure(steering), self.base, self.pref.candidates, direction.target),
                "nulls": lifts(scale),
                **effect,
            }
            for scale, steering, effect in zip(self.dosing.scales, steerings, effects, strict=True)
        ]
        judged = judge(rows, direction.target, self.dosing.max_kl)
        return {**(judged if direction.nulls else {}), "scales": rows}


def positive(measured: Json, dosing: Dose) -> list[Json]:
    """Return the figures of the dose in model a, at the scales that are tried in b."""
    keys = ("scale", "lift", "kl", "loss", "p", "nulls")
    return [{key: row[key] for key in keys} for row in measured["scales"] if row["scale"] in dosing.scales]


def cosine(turned: Direction, own: Direction) -> Json:
    """Return the cosine of the rotated vector with b's own, against those of rotated null vectors."""
    nulls = torch.cat(list(turned.nulls.values()))
    value = float(cosine_similarity(turned.unit, own.unit, dim=0))
    return against(value, cosine_similarity(nulls, own.unit.unsqueeze(0), dim=-1))


def sentence(body: Json) -> str:
    """Describe for the log the lifts at the vector's strength: in its own model, in b, and by b's own vector."""

    def lift(of: Json) -> str:
        [row] = [each for each in of["scales"] if each["scale"] == body["scale"]]
        return f"{row['lift']['mean']:.3f}"

    if body["scale"] not in [row["scale"] for row in body["in_a"]["scales"]]:
        return str(body["in_b"]["turned"]["verdict"])
    own = f", b's own {lift(body['in_b']['own'])}" if body["in_b"]["own"] else ""
    return (
        f"at {body['scale']:g} of the mean norm {body['target']} is lifted by {lift(body['in_a'])} in a, and in b by "
        f"{lift(body['in_b']['turned'])} turned{own}"
    )
