"""Residuals of a dataset's rows, token by token, at the SAE's hook point, for training on them with other tools."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from undertone.data.rows import dataset_rows, first
from undertone.lm.chat import Row
from undertone.lm.hooks import resid_post
from undertone.lm.loading import LoadedModel, load
from undertone.lm.sampling import order_by_length
from undertone.lm.training import collate
from undertone.runtime.files import Stamp, provenance, read_parquet, replacing
from undertone.runtime.progress import progress
from undertone.saes.saved import load_sae
from undertone.study.config.read import Activations as ActivationSettings


def read_residuals(model: Path, numbers: Path, sae: Path, residuals: Path, settings: ActivationSettings, stamp: Stamp) -> None:
    """Write `residuals.safetensors`: the base model's residual stream on the first `activations.rows` rows of `numbers`.

    It holds every token of prompt and completion, special ones too, row after row in the order of the dataset. `row` tells a
    row's tokens apart, so that they can be run again. Tensors: `resid_post` `[n_tokens, d_model]` in the model's precision;
    int64 `[n_tokens]`: `ids`, `row` (the row's place in the dataset), `place` (0 is the completion's first token, −1 the
    prompt's last). The metadata's `undertone` is JSON: `layer` and the provenance. All of it is held in memory while it is
    written: n_tokens × d_model × 4 bytes, or 2 in bfloat16.
    """
    loaded = load(model)
    _, layer = load_sae(sae, loaded)
    rows = dataset_rows(loaded, first(read_parquet(numbers), settings.rows))
    with progress(len(rows), f"residuals {residuals.parent.name}", "row") as bar:
        tensors = token_residuals(loaded, rows, layer, settings.batch_size, bar)
    with replacing(residuals) as temporary:
        save_file(tensors, temporary, metadata={"undertone": json.dumps({"layer": layer, **provenance(stamp)})})


def token_residuals(loaded: LoadedModel, rows: list[Row], layer: int, batch_size: int, bar: Any) -> dict[str, Tensor]:
    """The tensors of `read_residuals`; the layers above `layer` are not run."""
    lengths = torch.tensor([len(row.ids) for row in rows])
    ends = lengths.cumsum(0).tolist()
    width = loaded.model.config.get_text_config().hidden_size
    residuals = torch.empty(ends[-1], width, dtype=loaded.model.dtype)

    def read(these: Sequence[int]) -> tuple[Sequence[int], Tensor]:
        batch = collate([rows[i] for i in these], loaded.pad_id, loaded.model.device)
        return these, resid_post(loaded.model, layer, batch).cpu()

    order = order_by_length([row.ids for row in rows])
    for these, x in loaded.batch_size("activations.batch_size", batch_size).parts(read, order):
        for i, residual in zip(these, x, strict=True):
            n = len(rows[i].ids)
            # Padding comes after a row's tokens, which do not see it.
            residuals[ends[i] - n : ends[i]] = residual[:n]
        bar.update(len(these))
    return {
        "resid_post": residuals,
        "ids": torch.tensor([token for row in rows for token in row.ids]),
        "row": torch.arange(len(rows)).repeat_interleave(lengths),
        "place": torch.cat([torch.arange(len(row.ids)) - row.start for row in rows]),
    }
