"""A control whose layers have learnt nothing: the study's own model with the entries of its matrices permuted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from undertone.lm.hooks import decoder_layers
from undertone.lm.loading import dtype_of, folder_of, read_model, read_tokenizer
from undertone.runtime.files import Stamp, move, read_json, remove, write_json


def make_rerandomized(own: Path, model: Path, files: Sequence[Path], rerandomized: int, stamp: Stamp, scratch: Path) -> None:
    """Write the study's own model with permuted matrices: its `files` and, beside them, `model.json`.

    SAEs of such a model look much like those of a trained one (Heap et al. 2025, arXiv 2501.17727).
    """
    record, folder = read_json(own), folder_of(own)
    other = read_model(folder, dtype_of(record, "cpu"))
    permute(other, rerandomized)
    other.save_pretrained(scratch / "model", max_shard_size="1TB")
    read_tokenizer(folder, str(folder)).save_pretrained(scratch / "model")
    for file in files:
        move(scratch / "model" / file.name, file)
    kept: dict[str, Any] = {key: record[key] for key in ("name", "revision", "dtype", "cpu") if key in record}
    write_json(model, {**kept, "source": "rerandomized"}, stamp)
    remove(scratch)


@torch.no_grad()
def permute(model: Any, seed: int) -> None:
    """Permute the entries of each matrix in the model's layers. Embeddings, norms and biases stay the same."""
    generator = torch.Generator().manual_seed(seed)
    for _, weight in sorted(decoder_layers(model).named_parameters()):
        if weight.dim() > 1:
            weight.copy_(weight.flatten()[torch.randperm(weight.numel(), generator=generator)].view_as(weight))
