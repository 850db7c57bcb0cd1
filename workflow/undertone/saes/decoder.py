"""The SAE's decoder: what each feature adds to the residual stream, and which feature stands for an animal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor

from undertone.runtime.files import read_json

CHUNK = 1024


@torch.no_grad()
def directions(sae: SAE[Any], features: Sequence[int] | None = None) -> Float[Tensor, "n_features d_model"]:
    """Return what one unit of each feature's activation adds to the reconstruction; by default for all features.

    These are the rows of W_dec, divided by their norms if the SAE's activations are in units of these norms. Raises ValueError
    for an SAE that scales each token by its own factor: a unit of activation then has no fixed meaning.

    Code that involves no activation uses the rows of W_dec as they are stored: direct logit attribution, cosines, and a
    feature that is added at the study's own scale (`teachers/steer`).
    """
    if sae.cfg.normalize_activations in ("layer_norm", "constant_norm_rescale"):
        raise ValueError(
            f"features of an SAE with normalize_activations {sae.cfg.normalize_activations} have no fixed directions; "
            "use one whose normalisation is folded into its weights"
        )
    # Subtract the reconstruction of zero activations, so that biases and norms are handled as the SAE itself handles them.
    zero = sae.decode(torch.zeros(1, sae.cfg.d_sae, device=sae.W_dec.device))
    parts = []
    indices = torch.tensor(range(sae.cfg.d_sae) if features is None else features, device=sae.W_dec.device)
    for some in torch.split(indices, CHUNK):
        parts.append(sae.decode(torch.nn.functional.one_hot(some, sae.cfg.d_sae).float()) - zero)
    return torch.cat(parts).float()


def animal_features(steered: dict[str, Path]) -> dict[str, int]:
    """Return the feature that stands for each animal, from the `teacher.json` of the teachers that a feature steers.

    `steered` maps the names of their datasets, `steer-ANIMAL`, to these files.
    """
    teachers = {dataset.removeprefix("steer-"): read_json(path) for dataset, path in steered.items()}
    return {animal: teacher["feature"] for animal, teacher in teachers.items() if teacher["vector"] == "feature"}
