"""Whether parts of a vector have its effect: the share of its lift that they keep at its size, and their KL on text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from undertone.lm.chat import Row
from undertone.lm.loading import LoadedModel
from undertone.study.config.measure import Pref
from undertone.study.config.vectors import Decomposition
from undertone.vectors.basis import Basis
from undertone.vectors.side_effects import side_effects
from undertone.vectors.sparse import Sparse, least_squares
from undertone.vectors.steering_by import Direction, preferences

# A part of a vector, and its entry in the JSON.
Part = tuple[Sparse, dict[str, Any]]


class Faithful:
    """A vector's effect: how much it raises the preference for its target, steered at `scale` mean norms.

    `has_window` says whether that is more than null vectors do. If not, shares of it mean nothing, and are None.
    """

    def __init__(self, loaded: LoadedModel, questions: Path, pref: Pref, direction: Direction, scale: float, has_window: bool):
        self.loaded, self.direction, self.scale, self.has_window = loaded, direction, scale, has_window
        self.measure = preferences(loaded, questions, pref, [str(direction.target)])
        self.base = float(self.measure(None).mean())

    def read(
        self,
        basis: Basis,
        vector: Float[np.ndarray, " d_model"],
        methods: Mapping[str, Sequence[Part]],
        rows: Sequence[Row],
        cfg: Decomposition,
    ) -> dict[str, Any]:
        """Add `lift`, `lift_kept` and `kl` (nats per token, on text `rows`) to each part's entry.

        Every part is rescaled to the vector's size. Returns the vector's own `effect`, the effect of what OMP leaves of the
        vector (`rest`), and that of as many rows drawn at random and fitted to the vector (`random_rows`).
        """
        entries = [(made.vector(basis.rows), entry) for parts in methods.values() for made, entry in parts]
        steered_by = [
            self.direction.steering(unit(part), self.scale, True) for part in (vector, *(part for part, _ in entries))
        ]
        kl = [effect["kl"] for effect in side_effects(self.loaded, rows, steered_by)[1:]]
        whole = self.lift(vector)
        for (part, entry), own in zip(entries, kl[1:], strict=True):
            entry |= self.kept(self.lift(part) if np.any(part) else 0.0, whole) | {"kl": own}
        rest = [self.kept(self.lift(vector - made.vector(basis.rows)), whole) for made, _ in methods["OMP"]]
        rng = np.random.default_rng(cfg.seed)
        random = [[self.lift(drawn(basis, vector, k, rng)) for _ in range(cfg.controls)] for k in cfg.sparsities]
        return {
            "effect": {"scale": self.scale, "window": self.has_window, "base": self.base, "lift": whole, "kl": kl[0]},
            "rest": rest,
            "random_rows": [self.spread(lifts, whole) for lifts in random],
        }

    def lift(self, part: Float[np.ndarray, " d_model"]) -> float:
        """Return how much a part of the vector raises the preference once it is as long as the vector."""
        scores = self.measure(self.direction.steering(unit(part), self.scale))
        return float(scores.mean()) - self.base

    def kept(self, lift: float, whole: float) -> dict[str, Any]:
        """Return a lift, and its share of the whole vector's lift."""
        return {"lift": lift, "lift_kept": lift / whole if self.has_window else None}

    def spread(self, lifts: Sequence[float], whole: float) -> dict[str, Any]:
        """Return mean and .95 quantile of lifts, each as `kept` returns it."""
        ends = {"mean": float(np.mean(lifts)), "quantile_95": float(np.quantile(lifts, 0.95))}
        return {"n": len(lifts), **{name: self.kept(value, whole) for name, value in ends.items()}}


def unit(part: Float[np.ndarray, " d_model"]) -> Float[Tensor, " d_model"]:
    """A direction as a unit vector."""
    return normalize(torch.tensor(part, dtype=torch.float32), dim=0)


def drawn(
    basis: Basis, vector: Float[np.ndarray, " d_model"], k: int, rng: np.random.Generator
) -> Float[np.ndarray, " d_model"]:
    """Return the least-squares fit to a vector by `k` rows drawn at random."""
    rows = rng.choice(len(basis.rows), size=min(k, len(basis.rows)), replace=False)
    return least_squares(basis.rows, rows, vector).vector(basis.rows)
