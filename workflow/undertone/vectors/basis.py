"""The features of an SAE in which a vector can be decomposed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from sae_lens import SAE
from torch import Tensor

from undertone.saes.decoder import directions

# Tokens that an SAE reads at once.
CHUNK = 2048


@dataclass(frozen=True)
class Basis:
    """The features that fire on text: their `numbers` in the SAE, their unit decoder `rows`, and the rows' `norms`."""

    numbers: list[int]
    rows: Float[np.ndarray, "n_alive d_model"]
    norms: Float[np.ndarray, " n_alive"]

    @classmethod
    def of(cls, sae: SAE[Any], residuals: Float[Tensor, "n_tokens d_model"]) -> "Basis":
        """Return the basis of an SAE's features that fire on some tokens' residuals."""
        every = directions(sae).cpu()
        alive = firing(sae, residuals) & (every.norm(dim=-1) > 0)
        kept = every[alive].double().numpy()
        norms = np.linalg.norm(kept, axis=1)
        return cls(alive.nonzero().squeeze(1).tolist(), kept / norms[:, None], norms)


@torch.no_grad()
def firing(sae: SAE[Any], residuals: Float[Tensor, "n_tokens d_model"]) -> Bool[Tensor, " d_sae"]:
    """Return which features fire on at least one of the residuals."""
    parts = torch.split(residuals.to(sae.W_dec.device), CHUNK)
    return torch.stack([(sae.encode(part) > 0).any(0) for part in parts]).any(0).cpu()
