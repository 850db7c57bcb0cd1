"""Contrasts as steering: which concept's persona vector, added to the residual stream, makes a dataset likelier."""

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from undertone.detect.persona_vectors import all_concepts, read_persona_vectors
from undertone.detect.sets import Pairs, Reading, read_sets
from undertone.detect.steered_rows import Tries
from undertone.lm.loading import load
from undertone.models.bank import Bank
from undertone.runtime.files import Stamp
from undertone.study.config.detect import Detectors, Tried
from undertone.study.config.measure import Pref
from undertone.teachers.divergence import Constraint


def read_contrasts(
    model: Path,
    persona_vectors: Path,
    matched: Path,
    bank: Path,
    contrasts: Path,
    own: Tried,
    detectors: Detectors,
    pref: Pref,
    settings: dict[str, Any],
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Write `contrasts.json`: concepts ranked by the gain of their best persona vector, in nats per token, including decoys.

    Lengths are in units of the vector's own length. `best` is the first concept, with the layer after which its vector was
    added, the length, and the gain on the rows of the last round, which chose only among finalists. `settings` hold the study's
    `constraint` if sampling is constrained.
    """
    loaded, concepts = load(model), all_concepts(pref.candidates, Bank.read(bank))
    vectors = read_persona_vectors(persona_vectors, len(concepts))
    number = {concept: k for k, concept in enumerate(concepts)}

    def vector(concept: str, layer: int) -> Float[Tensor, " d_model"]:
        return vectors[number[concept], layer]

    layers = spread(vectors.shape[1], own.layers)
    constraint = Constraint.of(settings.get("constraint"))
    tries = Tries(loaded, layers, vector, own, detectors, constraint, f"contrasts {contrasts.parent.name}")

    def read(pairs: Pairs) -> Reading:
        return tries.read(pairs, concepts, set(pref.candidates))

    read_sets(matched, contrasts, read, detectors, stamp, scratch)


def spread(depth: int, n: int) -> list[int]:
    """Return at most `n` evenly spaced layers of a model, including the last one."""
    n = min(n, depth)
    return [depth * (k + 1) // n - 1 for k in range(n)]
