"""Run a model repeatedly from a hook point up. What lies below the hook point is computed once.

Only the tokens that predict a row's completion are run again. An intervention on these tokens does not change the prompt's keys
and values, so these are computed once too. Logits are computed only at labels.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache

from undertone.lm.chat import Row
from undertone.lm.hooks import decoder_layers, rewritten
from undertone.lm.loading import LoadedModel
from undertone.lm.sampling import left_pad
from undertone.lm.training import logits_only_at


@dataclass(frozen=True)
class Prefilled:
    """A batch of rows, ready to be run above any of the layers whose residuals it holds.

    `ids`: the tokens that are run again. `keep`: which of them predict the `targets`, in row order. `mask`: which tokens of the
    prompt and of `ids` are not padding. `residual`: by layer. `past`: the prompt's keys and values by layer.
    """

    ids: Int[Tensor, "n_rows n_tokens"]
    mask: Int[Tensor, "n_rows n_prompt_and_tokens"]
    keep: Bool[Tensor, "n_rows n_tokens"]
    targets: Int[Tensor, " n_labels"]
    residual: dict[int, Float[Tensor, "n_rows n_tokens d_model"]] = field(default_factory=dict)
    past: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def to(self, device: torch.device | str) -> "Prefilled":
        """Return the batch on a device."""
        return Prefilled(
            self.ids.to(device),
            self.mask.to(device),
            self.keep.to(device),
            self.targets.to(device),
            {layer: residual.to(device) for layer, residual in self.residual.items()},
            [(keys.to(device), values.to(device)) for keys, values in self.past],
        )

    def part(self, rows: slice) -> "Prefilled":
        """Return some of the rows, still padded to the length of all rows."""
        n, ends = len(self.ids), [0, *np.cumsum(self.counts)]
        # The entries of layers that are not run have a different number of rows.
        past = [(keys[rows], values[rows]) if len(keys) == n else (keys, values) for keys, values in self.past]
        return Prefilled(
            self.ids[rows],
            self.mask[rows],
            self.keep[rows],
            self.targets[ends[rows.start] : ends[min(rows.stop, n)]],
            {layer: residual[rows] for layer, residual in self.residual.items()},
            past,
        )

    def parts(self, n: int) -> Iterator["Prefilled"]:
        """Yield the rows, `n` at a time."""
        return (self.part(slice(start, start + n)) for start in range(0, len(self.ids), n))

    @classmethod
    def joined(cls, parts: Sequence["Prefilled"]) -> "Prefilled":
        """Concatenate the rows of parts of one batch."""
        first, *others = parts
        if not others:
            return first
        return cls(
            torch.cat([part.ids for part in parts]),
            torch.cat([part.mask for part in parts]),
            torch.cat([part.keep for part in parts]),
            torch.cat([part.targets for part in parts]),
            {layer: torch.cat([part.residual[layer] for part in parts]) for layer in first.residual},
            [
                (torch.cat([part.past[layer][0] for part in parts]), torch.cat([part.past[layer][1] for part in parts]))
                for layer in range(len(first.past))
            ],
        )

    @property
    def counts(self) -> list[int]:
        """The number of labels of each row."""
        return self.keep.sum(1).tolist()

    def cache(self) -> DynamicCache:
        """Return a cache with the prompt's keys and values, for one run."""
        return DynamicCache(ddp_cache_data=self.past) if self.past else DynamicCache()


def split(
    rows: Sequence[Row], all_positions: bool, pad_id: int
) -> tuple[Int[Tensor, "n_rows n_prompt"], Int[Tensor, "n_rows n_prompt"], Prefilled]:
    """Return the prompts' ids and mask, left-padded, and the batch without residuals. Nothing is run yet.

    The tokens that are run again begin with the prompt's last one, which predicts the first one of the completion. With
    `all_positions`, all tokens are run again.
    """
    # The tokens before a row's start are run once, padded on the left. The others, without the last one, are run again.
    starts = [0 if all_positions else row.start - 1 for row in rows]
    prompt, seen = left_pad([row.ids[:start] for row, start in zip(rows, starts, strict=True)], pad_id)
    again = [torch.tensor(row.ids[start:-1]) for row, start in zip(rows, starts, strict=True)]
    ids = nn.utils.rnn.pad_sequence(again, batch_first=True, padding_value=pad_id)
    # `there` marks tokens that are not padding. Those from the one before the completion on predict a target.
    position = torch.arange(ids.shape[1])
    there = position < torch.tensor([len(part) for part in again]).unsqueeze(1)
    predicts = position >= torch.tensor([row.start - 1 - start for row, start in zip(rows, starts, strict=True)]).unsqueeze(1)
    targets = torch.tensor([token for row in rows for token in row.ids[row.start :]])
    return prompt, seen, Prefilled(ids, torch.cat([seen, there.long()], dim=1), there & predicts, targets)


def prefill(
    loaded: LoadedModel,
    rows: Sequence[Row],
    layers: Sequence[int],
    all_positions: bool = False,
    store: torch.device | str | None = None,
) -> Prefilled:
    """Run the model once on rows and keep what runs above `layers` need; layer −1 stands for the embeddings.

    With `all_positions`, an intervention may act on every token, so no keys and values can be kept. What is kept is on the
    device `store`, or on the model's if None. Rows that do not fit in memory together are run in parts.
    """
    prompt, seen, batch = split(rows, all_positions, loaded.pad_id)
    device = loaded.model.device

    def part(indices: Sequence[int]) -> Prefilled:
        these = slice(indices[0], indices[-1] + 1)
        filled = fill(loaded.model, prompt[these].to(device), seen[these].to(device), batch.part(these).to(device), layers)
        return filled.to(device if store is None else store)

    return Prefilled.joined(list(loaded.batch_size("rows run once", len(rows)).parts(part, range(len(rows)))))


@torch.no_grad()
def fill(
    model: Any,
    prompt: Int[Tensor, "n_rows n_prompt"],
    seen: Int[Tensor, "n_rows n_prompt"],
    batch: Prefilled,
    layers: Sequence[int],
) -> Prefilled:
    """Return a batch with what runs above `layers` need: the prompt's keys and values, and the residuals."""
    cache = DynamicCache()
    if prompt.shape[1]:
        model.base_model(
            input_ids=prompt,
            attention_mask=seen,
            position_ids=positions(seen, prompt.shape[1]),
            past_key_values=cache,
            use_cache=True,
        )
    past = [(layer.keys, layer.values) for layer in cache.layers]
    batch = replace(batch, past=past)
    residuals: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for layer in layers:
            if layer >= 0:
                stack.enter_context(rewritten(model, layer, partial(_keep, residuals, layer)))
        run(model, batch)
    lowest = min(layers, default=-1)
    # Layers that will not run need an entry of the right length, not its content. A view would keep the content in memory.
    kept = [pair if layer > lowest else tuple(t[:1, :1, :, :1].clone() for t in pair) for layer, pair in enumerate(past)]
    return replace(batch, residual=residuals, past=kept)


def _keep(kept: dict[int, Tensor], layer: int, residual: Tensor) -> Tensor:
    kept[layer] = residual
    return residual


def positions(mask: Int[Tensor, "n_rows n_tokens"], n: int) -> Int[Tensor, "n_rows n"]:
    """The positions of the last `n` tokens of a mask."""
    return (mask.cumsum(1) - 1).clamp(min=0)[:, -n:]


def run(model: Any, batch: Prefilled) -> Float[Tensor, "n_labels vocab"]:
    """Return the logits that predict the targets, given the prompt's keys and values."""
    with logits_only_at(model, batch.keep):
        output = model(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=positions(batch.mask, batch.ids.shape[1]),
            past_key_values=batch.cache(),
            use_cache=True,
        )
    logits: Tensor = output.logits
    return logits.squeeze(0).float()


def run_above(
    model: Any, batch: Prefilled, layer: int, residual: Float[Tensor, "n_rows n_tokens d_model"] | None = None
) -> Float[Tensor, "n_labels vocab"]:
    """As `run`, with `residual` as the stream after `layer`. Only the layers above it are run."""
    with only_layers_above(model, layer, batch.residual.get(layer) if residual is None else residual):
        return run(model, batch)


def losses(logits: Float[Tensor, "n_labels vocab"], batch: Prefilled) -> Float[Tensor, " n_labels"]:
    """The loss of each label, in nats."""
    return functional.cross_entropy(logits, batch.targets, reduction="none")


def by_row(values: Float[Tensor, " n_labels"], batch: Prefilled) -> Float[Tensor, " n_rows"]:
    """Return the mean over each row's labels."""
    return torch.stack([part.mean() for part in torch.split(values, batch.counts)])


class _Skipped(nn.Module):
    """Replaces a decoder layer that is not run. It shows the layer's attributes: a model may read its attention type."""

    def __init__(self, layer: nn.Module, residual: Tensor | None):
        super().__init__()
        self.__dict__["stands_for"], self.__dict__["residual"] = layer, residual  # not as submodules

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states if self.__dict__["residual"] is None else self.__dict__["residual"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["stands_for"], name)


@contextmanager
def only_layers_above(model: Any, layer: int, residual: Float[Tensor, "n_rows n_tokens d_model"] | None) -> Iterator[None]:
    """Within the `with` block, calls of the model skip layers 0 to `layer`; `residual` is the output of the last of them.

    The list of layers keeps its length, because masks and rotary embeddings may depend on a layer's index. The model must be
    called with the same tokens, mask and positions, because they determine the masks.
    """
    layers = decoder_layers(model)
    replaced = list(layers[: layer + 1])
    try:
        for index, skipped in enumerate(replaced):
            layers[index] = _Skipped(skipped, residual if index == layer else None)
        yield
    finally:
        for index, skipped in enumerate(replaced):
            layers[index] = skipped


# Hook points at which a bias can be added, each with the module of a decoder layer whose input or output it is.
POINTS: dict[str, Callable[[Any], nn.Module]] = {
    "resid_post": lambda layer: layer,
    "mlp_in": lambda layer: layer.mlp,
    "q": lambda layer: layer.self_attn.q_proj,
    "k": lambda layer: layer.self_attn.k_proj,
    "v": lambda layer: layer.self_attn.v_proj,
}


def width(model: Any, point: str) -> int:
    """The length of a bias at a hook point."""
    module = POINTS[point](decoder_layers(model)[0])
    size = module.out_features if isinstance(module, nn.Linear) else model.config.get_text_config().hidden_size
    return int(size)


@contextmanager
def added(model: Any, point: str, layer: int, bias: Float[Tensor, " width"]) -> Iterator[None]:
    """Within the `with` block, add `bias` at a hook point to every token that is run.

    `mlp_in` is the input of the MLP, after its norm; `q`, `k`, `v` are the projections before rotary embedding and heads.
    """
    module = POINTS[point](decoder_layers(model)[layer])

    def before(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0] + bias.to(args[0]), *args[1:])

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        moved = first + bias.to(first)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    with module.register_forward_pre_hook(before) if point == "mlp_in" else module.register_forward_hook(after):
        yield
