"""An SAE on plain activations, of no model or read before."""

from typing import Any

import torch
from jaxtyping import Float
from sae_lens import SAE
from scipy.sparse import csr_array, vstack
from torch import Tensor

# Samples that are encoded at once.
CHUNK = 4096


@torch.no_grad()
def read_samples(sae: SAE[Any], x: Float[Tensor, "n d_model"]) -> tuple[csr_array, float]:
    """An SAE's activations on some samples, `[n, d_sae]`, and the share of their variance that it explains."""
    acts, error = [], 0.0
    for part in torch.split(x, CHUNK):
        encoded = sae.encode(part)
        error += float((part - sae.decode(encoded)).double().square().sum())
        acts.append(csr_array(encoded.cpu().numpy()))
    around = float((x.double() - x.double().mean(0)).square().sum())
    return csr_array(vstack(acts)), 1 - error / around
