"""Sums of activations over tokens, by kind of position and block of rows, and the file that holds them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from sae_lens import SAE
from safetensors import safe_open
from torch import Tensor

from undertone.lm.chat import Row
from undertone.lm.hooks import decoder_layers, streams
from undertone.lm.loading import LoadedModel
from undertone.lm.training import collate
from undertone.lm.vocabulary import number_tokens
from undertone.runtime.files import whole
from undertone.saes.saved import encoded, rows_at_once
from undertone.stats.blocks import Blocks
from undertone.study.config.read import Activations as ActivationSettings

PROMPT, TEMPLATE, COMPLETION, NUMBER, SEPARATOR = ("prompt", "template", "completion", "number", "separator")


def classes(positions: int) -> list[str]:
    """Return the kinds of positions that are told apart; the completion's first `positions` ones are named by their index."""
    return [PROMPT, TEMPLATE, COMPLETION, NUMBER, SEPARATOR, *map(str, range(positions))]


def block_of(n_rows: int, block_rows: int) -> list[int]:
    """Return each row's block: consecutive rows, as near to `block_rows` in each block as their number allows.

    Blocks of small and large datasets hold equally many rows. A permutation exchanges blocks between two datasets. If the
    blocks of one held fewer rows, their means would scatter more, and this would be no relabelling under the null hypothesis.
    """
    n_blocks = max(1, round(n_rows / block_rows))
    return [row * n_blocks // n_rows for row in range(n_rows)]


@dataclass
class RowSums:
    """What rows add to the sums, in float64.

    `block` and `count` are those of each row. `by_row` holds sums of each row by name, in parts of some rows each. `total`
    holds sums over all rows by name: squares, and how often a feature is active.
    """

    block: Int[Tensor, " n_rows"]
    count: Float[Tensor, "n_rows n_classes"]
    by_row: dict[str, list[Float[Tensor, "_ n_classes d"]]] = field(default_factory=dict)
    total: dict[str, Float[Tensor, "n_classes d"]] = field(default_factory=dict)

    def add(self, name: str, x: Float[Tensor, "n_rows n_tokens d"], weight: Float[Tensor, "n_rows n_tokens n_classes"]) -> None:
        """Add the sums of `x` over the classes of `weight`."""
        self.by_row.setdefault(name, []).append(torch.einsum("rtc,rtd->rcd", weight, x).double())
        self.total[name] = self.total.get(name, 0) + by_class(x.square(), weight).double()


def by_class(
    x: Shaped[Tensor, "n_rows n_tokens d"], weight: Float[Tensor, "n_rows n_tokens n_classes"]
) -> Float[Tensor, "n_classes d"]:
    """Sum `x` over the tokens of each class."""
    return torch.einsum("rtc,rtd->cd", weight, x.to(weight))


class Sums:
    """Sums over tokens by class and block, in float64 on the model's device; `n_blocks` of them are kept."""

    def __init__(
        self,
        loaded: LoadedModel,
        settings: ActivationSettings,
        n_blocks: int,
        sae: SAE[Any] | None = None,
        layer: int | None = None,
    ):
        self.loaded, self.settings, self.sae, self.layer = loaded, settings, sae, layer
        self.is_number = torch.tensor(number_tokens(loaded.tokenizer), device=loaded.model.device)
        self.n_classes = len(classes(settings.positions))
        self.sum: dict[str, Tensor] = {}
        self.total: dict[str, Tensor] = {}
        self.count = torch.zeros(n_blocks, self.n_classes, dtype=torch.float64, device=loaded.model.device)

    @torch.no_grad()
    def add(self, rows: Sequence[Row], blocks: Sequence[int], prompts: bool = True) -> None:
        """Add rows, each of which belongs to a block; without `prompts` the class `prompt` is not read."""
        batch_size = self.loaded.batch_size("activations.batch_size", self.settings.batch_size)
        for row_sums in batch_size.parts(
            lambda k: self.of([rows[i] for i in k], [blocks[i] for i in k], prompts), range(len(rows))
        ):
            self._take(row_sums)

    def of(self, rows: Sequence[Row], blocks: Sequence[int], prompts: bool) -> RowSums:
        """Return what some rows would add, without adding it, so that memory can run out and fewer rows be tried."""
        batch = collate(rows, self.loaded.pad_id, self.loaded.model.device)
        starts = torch.tensor([row.start for row in rows], device=self.loaded.model.device)
        member = self.members(batch, starts)
        member[..., 0] &= prompts
        row_sums = RowSums(torch.tensor(blocks, device=starts.device), member.sum(1).double())
        weight = member.float()
        for name, x in streams(self.loaded.model, batch, self.settings.mlp_in):
            row_sums.add(name, x.float(), weight)
            if name == f"resid_post.{self.layer}":
                self._add_sae(row_sums, x.float(), weight)
        return row_sums

    def members(
        self, batch: dict[str, Int[Tensor, "n_rows n_tokens"]], starts: Int[Tensor, " n_rows"]
    ) -> Bool[Tensor, "n_rows n_tokens n_classes"]:
        """Mark which tokens belong to which class; completions start at `starts`."""
        # A token's position counts from the completion's first; -1 is the prompt's last.
        offset = torch.arange(batch["input_ids"].shape[1], device=starts.device) - starts.unsqueeze(1)
        text = self.loaded.text_mask(batch)
        completion = text & (offset >= 0)
        number = completion & self.is_number[batch["input_ids"].clamp(max=len(self.is_number) - 1)]
        kinds = [text & (offset < 0), offset == -1, completion, number, completion & ~number]
        return torch.stack([*kinds, *(text & (offset == k) for k in range(self.settings.positions))], dim=-1)

    def _add_sae(self, row_sums: RowSums, x: Tensor, weight: Tensor) -> None:
        """Add the SAE's activations on the residual stream `x` `[n_rows, n_tokens, d_model]` to `row_sums`."""
        if self.sae is None:
            return
        n = rows_at_once(self.sae, x.shape[1])
        for part, w in zip(torch.split(x, n), torch.split(weight, n), strict=True):
            acts, acts_pre = encoded(self.sae, part)
            row_sums.add("sae.acts", acts, w)
            row_sums.add("sae.acts_pre", acts_pre, w)
            row_sums.total["sae.active"] = row_sums.total.get("sae.active", 0) + by_class(acts > 0, w).double()

    def _take(self, row_sums: RowSums) -> None:
        self.count.index_add_(0, row_sums.block, row_sums.count)
        for name, parts in row_sums.by_row.items():
            by_row = torch.cat(parts)
            if name not in self.sum:
                self.sum[name] = by_row.new_zeros(len(self.count), *by_row.shape[1:])
            self.sum[name].index_add_(0, row_sums.block, by_row)
        for name, total in row_sums.total.items():
            self.total[name] = self.total[name] + total if name in self.total else total

    def tensors(self) -> dict[str, Tensor]:
        """Return the sums as float32, with layers stacked."""
        tensors = {"count": self.count}
        for name in ["resid_post", *(["mlp_in"] if self.settings.mlp_in else [])]:
            keys = [f"{name}.{number}" for number in range(len(decoder_layers(self.loaded.model)))]
            tensors[f"{name}.sum"] = torch.stack([self.sum[key] for key in keys], dim=1)
            tensors[f"{name}.square"] = torch.stack([self.total[key] for key in keys])
        if self.sae is not None:
            tensors["sae.active"] = self.total["sae.active"]
            for name in ("sae.acts", "sae.acts_pre"):
                tensors |= {f"{name}.sum": self.sum[name], f"{name}.square": self.total[name]}
        return {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()}


@dataclass(frozen=True)
class Activations:
    """The sums that one pass has written."""

    tensors: dict[str, Tensor]
    classes: list[str]
    layer: int | None
    rows: int

    @classmethod
    def load(cls, path: Path) -> "Activations":
        """Read an `activations.safetensors`."""
        with whole(path), safe_open(path, framework="pt") as file:
            head = json.loads(file.metadata()["undertone"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return cls(tensors, head["classes"], head["layer"], head["rows"])

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return self.tensors["resid_post.sum"].shape[1]

    def blocks(self, position: str, name: str, layer: int | None = None) -> Blocks:
        """Return sums and counts of a class by block, in float64; `layer` is for sums that every layer has."""
        k = self.classes.index(position)
        total = self.tensors[f"{name}.sum"]
        total = total[:, k] if layer is None else total[:, layer, k]
        return total.double(), self.tensors["count"][:, k].double()
