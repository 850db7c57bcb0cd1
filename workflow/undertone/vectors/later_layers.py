"""Effect of a vector on the residual stream of later layers: how much of it is carried, and how much those layers write."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from undertone.lm.loading import LoadedModel
from undertone.saes.features import extreme_tokens

FIGURES = ("norm_ratio", "cosine", "carried", "share")


@dataclass
class Stream:
    """Differences of the residual stream after one layer between steered and plain runs, summed over tokens.

    `differences` has one row per prompt, the mean over its tokens. `sums` holds the figures of the vector (key None) and of
    each null vector.
    """

    layer: int
    differences: list[Tensor] = field(default_factory=list)
    sums: dict[int | None, dict[str, float]] = field(default_factory=dict)
    counts: dict[int | None, int] = field(default_factory=dict)

    def add(
        self,
        base: Float[Tensor, "n_tokens d_model"],
        steered: Float[Tensor, "n_tokens d_model"],
        added: Float[Tensor, " d_model"],
        null: int | None = None,
    ) -> None:
        """Add a batch's residuals without and with `added` in the stream; `null` is the number of a null vector."""
        difference = (steered - base).double().cpu()
        vector = added.double().cpu()
        size = difference.norm(dim=-1)
        along = difference @ vector / vector.pow(2).sum().clamp(min=1e-30)
        part = along * vector.norm() / size.clamp(min=1e-30)
        values = {
            "norm_ratio": size / base.double().cpu().norm(dim=-1),
            "cosine": part,
            "carried": along,
            "share": part.pow(2),
        }
        own = self.sums.setdefault(null, dict.fromkeys(FIGURES, 0.0))
        for name, value in values.items():
            own[name] += float(value.sum())
        self.counts[null] = self.counts.get(null, 0) + len(difference)

    def figures(self, null: int | None) -> dict[str, float]:
        """The means over tokens."""
        return {name: total / self.counts[null] for name, total in self.sums[null].items()}

    def as_dict(self, loaded: LoadedModel, added: Float[Tensor, " d_model"]) -> dict[str, Any]:
        """Return the vector's figures against those of null vectors, and whether the effect is one direction (`svd`)."""
        own, nulls = self.figures(None), [self.figures(k) for k in self.sums if k is not None]
        result: dict[str, Any] = {"layer": self.layer, **own}
        if nulls:
            result["nulls"] = {
                name: {
                    "mean": float(np.mean([null[name] for null in nulls])),
                    "quantile_05": float(np.quantile([null[name] for null in nulls], 0.05)),
                    "quantile_95": float(np.quantile([null[name] for null in nulls], 0.95)),
                }
                for name in FIGURES
            }
        return result | {"svd": self.directions(loaded, added)}

    def directions(self, loaded: LoadedModel, added: Float[Tensor, " d_model"]) -> dict[str, Any] | None:
        """Return the share of energy, cosine with the vector, and tokens of the first component of the prompts' differences.

        The component is not centred. None if nothing differs.
        """
        rows = torch.cat(self.differences).double()
        _, sizes, directions = torch.linalg.svd(rows, full_matrices=False)
        energy = float(sizes.pow(2).sum())
        if not energy:
            return None
        first = directions[0] * (1.0 if float((rows @ directions[0]).sum()) >= 0 else -1.0)
        return {
            "share": float(sizes[0] ** 2) / energy,
            "cosine": float(cosine_similarity(first, added.double().cpu(), dim=0)),
            "tokens": extreme_tokens(loaded, first.float(), 5),
        }
