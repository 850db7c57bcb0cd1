"""SAEs in SAELens's format, whatever their origin: loading, checks and encoding."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor

from undertone.lm.checkpoint import said
from undertone.lm.loading import LoadedModel
from undertone.lm.points import HookPoint
from undertone.lm.tensors import check_finite, stored
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json
from undertone.study.formats import SAE_FILES, read_settings

# Most numbers in an SAE's activations that are computed at a time; larger batches are split.
SAE_NUMBERS = 2**25


def load_sae(sae_json: Path, loaded: LoadedModel) -> tuple[SAE[Any], int]:
    """Load the SAE that `sae.json` names, frozen, in float32 on the model's device; return it with its layer.

    Needs no network. Raises ValueError if the SAE does not read the residual stream.
    """
    sae, at = load_sae_at(sae_json, loaded)
    if at.point != "resid_post":
        raise ValueError(f"{sae_json}: this SAE reads {at.name}, expected one of the residual stream, hook_resid_post")
    return sae, at.layer


def load_sae_at(sae_json: Path, loaded: LoadedModel) -> tuple[SAE[Any], HookPoint]:
    """Load an SAE like `load_sae`, but of any hook point; return it with its hook point."""
    record = read_json(sae_json)
    folder = record["folder"] if record["source"] == "folder" else Path(sae_json).parent
    sae = read_sae(Path(folder), str(loaded.model.device))
    return sae.float().requires_grad_(False).eval(), HookPoint.named(record["hook_point"])


def read_sae(folder: Path, device: str = "cpu") -> SAE[Any]:
    """Load the SAE of a folder in SAELens's format.

    Raises ConfigError, naming the file, if one is missing or damaged, the weights are not finite, or config and weights
    disagree.
    """
    missing = [file for file in SAE_FILES if not (folder / file).is_file()]
    if missing:
        raise ConfigError(
            f"{folder} lacks {' and '.join(missing)}: expected an SAE in SAELens's format ({', '.join(SAE_FILES)})"
        )
    cfg, weights = (folder / file for file in SAE_FILES)
    config = read_settings(cfg)
    if absent := {"d_in", "d_sae"} - config.keys():
        raise ConfigError(f"{cfg} does not say {' and '.join(sorted(absent))}: expected an SAE's config in SAELens's format")
    check_finite(stored(weights), weights)
    try:
        sae: SAE[Any] = SAE.load_from_disk(folder, device=device)
    except Exception as error:
        raise ConfigError(
            f"{cfg} and {weights.name} are no SAE that SAELens can load ({said(error)}); save it again with SAELens"
        ) from None
    check_shapes(config, stored(weights), cfg)
    return sae


def check_shapes(config: dict[str, Any], weights: Iterable[tuple[str, Tensor]], where: Path) -> None:
    """Raise ConfigError if the shapes of an SAE's matrices disagree with its config."""
    d_in, d_sae = config["d_in"], config["d_sae"]
    expected = {"W_enc": [d_in, d_sae], "W_dec": [d_sae, d_in]}
    for name, weight in weights:
        if list(weight.shape) != expected.get(name, list(weight.shape)):
            raise ConfigError(
                f"{where} says d_in {d_in} and d_sae {d_sae}, and {name} beside it has {list(weight.shape)}, expected "
                f"{expected[name]}: these are not of one SAE"
            )


@torch.no_grad()
def encoded(sae: SAE[Any], x: Float[Tensor, "*n d_model"]) -> tuple[Float[Tensor, "*n d_sae"], Float[Tensor, "*n d_sae"]]:
    """Return the SAE's activations and pre-activations (`hook_sae_acts_pre`) on `x`, which is in float32."""
    pre_activations: list[Tensor] = []
    with sae.hook_sae_acts_pre.register_forward_hook(lambda module, args, output: pre_activations.append(output)):
        acts = sae.encode(x)
    return acts, pre_activations[0]


def rows_at_once(sae: SAE[Any], n_tokens: int) -> int:
    """Return how many rows of `n_tokens` tokens an SAE may read at once so that its activations fit in memory."""
    return max(1, SAE_NUMBERS // (n_tokens * sae.cfg.d_sae))
