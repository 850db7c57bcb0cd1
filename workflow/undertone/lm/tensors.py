"""Refuse NaN and infinities, in weights and in what is computed from them, where they arise."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from jaxtyping import Float, Shaped
from safetensors import safe_open
from torch import Tensor

from undertone.runtime.errors import ConfigError
from undertone.runtime.files import whole

# The half precisions.
HALF = (torch.bfloat16, torch.float16)


class NotFiniteError(ConfigError):
    """Raised if what a model computes contains NaN or infinities."""


def finite(tensor: Shaped[Tensor, "..."]) -> bool:
    """Whether every number is finite. A finite sum settles this without taking memory."""
    return bool(torch.isfinite(tensor.sum(dtype=torch.float32)) or torch.isfinite(tensor).all())


def check_finite(tensors: Iterable[tuple[str, Shaped[Tensor, "..."]]], where: Path | str) -> None:
    """Raise ConfigError, naming their source `where`, if weights (name, tensor) contain NaN or infinities."""
    for name, tensor in tensors:
        if not finite(tensor):
            n = int((~torch.isfinite(tensor)).sum())
            raise ConfigError(
                f"{where}: {n} of the {tensor.numel()} numbers of {name} are NaN or infinite, expected finite weights: copy, "
                "download or train it again"
            )


def check_logits(logits: Float[Tensor, "... vocab"]) -> None:
    """Raise NotFiniteError if logits contain NaN or infinities."""
    # Only the maximum is checked, because a token may be masked by minus infinity.
    if not torch.isfinite(logits.max()):
        raise NotFiniteError(
            f"the model's logits are NaN or infinite, in {str(logits.dtype).removeprefix('torch.')}, though its weights are "
            "finite: numbers overflow on the way; set model.dtype to float32 or bfloat16, lower a steering scale, or train less"
        )


def names(path: Path) -> set[str]:
    """Return the names of the tensors of a safetensors file without reading them. Raises ConfigError as `stored` does."""
    with whole(path), safe_open(path, framework="pt") as file:
        return set(file.keys())


def stored(path: Path) -> Iterator[tuple[str, Shaped[Tensor, "..."]]]:
    """Yield (name, tensor) of a safetensors file, one at a time. Raises ConfigError, naming the file, if it is damaged."""
    with whole(path), safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - no dict
            yield name, file.get_tensor(name)
