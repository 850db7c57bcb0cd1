"""Activations that are on disk: where each is from, and training from them."""

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
    """The activations of a shard and the places of their tokens. Raises ConfigError, which names the file, if it is damaged."""
    with whole(path), safe_open(path, framework="pt") as file:
        return file.get_tensor("x"), file.get_tensor("token")


def places(
    token: Int[np.ndarray, " n"], lengths: Int[np.ndarray, " n_contexts"]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """The context and the position in it of each token, which are counted through all contexts, special ones among them."""
    ends = np.cumsum(lengths)
    row = np.searchsorted(ends, token, side="right")
    return row, token - (ends - lengths)[row]


def stored_batches(shards: Sequence[Path], settings: Sae, device: torch.device) -> Iterator[Float[Tensor, "batch d_model"]]:
    """Endless batches of the activations of a store, each once before any comes again, in float32 on the device.

    The order of shards, and that within each, is the seed's. One shard at a time is in memory.
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
