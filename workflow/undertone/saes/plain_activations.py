"""An SAE on plain activation tensors, which come from no model or were read earlier."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sae_lens import SAE
from scipy.sparse import csr_array, vstack
from torch import Tensor

# Samples encoded at a time.
CHUNK = 4096


@torch.no_grad()
def read_samples(sae: SAE[Any], x: Float[Tensor, "n d_model"]) -> tuple[csr_array, float]:
    """Return an SAE's activations on samples, `[n, d_sae]`, and the share of the samples' variance that it explains."""
    acts, error = [], 0.0
    for part in torch.split(x.to(sae.W_dec.device), CHUNK):
        encoded = sae.encode(part)
        error += float((part - sae.decode(encoded)).double().square().sum())
        acts.append(csr_array(encoded.cpu().numpy()))
    around = float((x.double() - x.double().mean(0)).square().sum())
    return csr_array(vstack(acts)), 1 - error / around


def quality_of_samples(sae: SAE[Any], x: Float[Tensor, "n d_model"]) -> dict[str, Any]:
    """Measure an SAE on samples: `features`, `dead` ones, `l0` and `explained_variance`.

    `pca` is the variance that as many principal components as features are active explain.
    """
    acts, explained = read_samples(sae, x)
    l0 = acts.nnz / len(x)
    variances = torch.linalg.eigvalsh(torch.cov(x.double().T)).flip(0).clamp(min=0)
    return {
        "features": acts.shape[1],
        "dead": acts.shape[1] - len(np.unique(acts.indices)),
        "l0": l0,
        "explained_variance": explained,
        "pca": float(variances[: max(round(l0), 1)].sum() / variances.sum()),
    }
