"""Reading activations from disk: the token that each belongs to, and batches for training."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor

from undertone.runtime.files import whole
from undertone.saes.trainer import usual
from undertone.study.config.saes import Sae


def read_shard(path: Path) -> tuple[Float[Tensor, "n d_model"], Int[Tensor, " n"]]:
    """Return a shard's activations and the places of their tokens. Raises ConfigError, naming the file, if it is damaged."""
    with whole(path), safe_open(path, framework="pt") as file:
        return file.get_tensor("x"), file.get_tensor("token")


def places(
    token: Int[np.ndarray, " n"], lengths: Int[np.ndarray, " n_contexts"]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Return each token's context and its position there. `token` counts through all contexts, special tokens included."""
    ends = np.cumsum(lengths)
    row = np.searchsorted(ends, token, side="right")
    return row, token - (ends - lengths)[row]


def stored_batches(shards: Sequence[Path], settings: Sae, device: torch.device) -> Iterator[Float[Tensor, "batch d_model"]]:
    """Yield endless batches of a store's activations, in float32 on the device; none repeats before all have been used.

    The seed draws the order of shards and the order within each. One shard at a time is in memory.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    left: list[Tensor] = []
    while True:
        for k in torch.randperm(len(shards), generator=generator).tolist():
            (x,) = usual(iter([read_shard(shards[k])[0].float()]), settings.max_norm)
            x = torch.cat([*left, x[torch.randperm(len(x), generator=generator)]])
            *parts, rest = torch.split(x, settings.batch_size) if len(x) else [x]
            left = [rest]
            if len(rest) == settings.batch_size:
                parts, left = [*parts, rest], []
            yield from (part.to(device) for part in parts)
