"""A model on a GPU that is too small: a call with more rows than `limit` runs out of memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def crowded(model: Any, limit: int, when: str = "forward") -> Iterator[list[int]]:
    """Inside, calls of the model fail beyond `limit` rows; yields the number of rows of every call.

    They fail before the first layer, or with `when` "backward" on the way back, once other weights have their gradients.
    """
    sizes: list[int] = []

    def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        sizes.append(len(args[0]))
        if when == "forward":
            run_out()

    def run_out(gradient: Tensor | None = None) -> None:
        if sizes[-1] > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    handles = [model.get_input_embeddings().register_forward_pre_hook(look)]
    if when == "backward":
        lowest = next(weight for weight in model.parameters() if weight.requires_grad)
        handles.append(lowest.register_hook(run_out))
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()
