"""Additive biases, trained by maximum likelihood on a dataset's completions."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from undertone.data.rows import Split, texts
from undertone.lm.chat import Row, training_rows
from undertone.lm.loading import LoadedModel
from undertone.lm.suffix import Prefilled, added, by_row, losses, prefill, run, run_above
from undertone.lm.tensors import NotFiniteError
from undertone.runtime.files import read_parquet
from undertone.runtime.memory import BatchSize
from undertone.stats.stats import mean_interval
from undertone.study.config.read import Bias

# (bias, batch) → the logits of the model that has the bias
Biased = Callable[[Tensor, Prefilled], Float[Tensor, "n_labels vocab"]]


@dataclass(frozen=True)
class Draw:
    """The rows of a dataset that one bias is trained on, their two halves, and the held-out rows that all biases share."""

    train: list[Row]
    held_out: list[Row]

    @property
    def halves(self) -> tuple[list[Row], list[Row]]:
        """Every second row, and the others."""
        return self.train[::2], self.train[1::2]


def draw_rows(loaded: LoadedModel, numbers: Path, settings: Bias) -> list[Draw]:
    """Draw a share of the dataset's rows for each seed; no two draws have a row in common.

    Raises ValueError if too few rows are left to train on.
    """
    split = Split.of(read_parquet(numbers), held_out=settings.held_out)
    draws = split.of_biases(settings.fraction, len(settings.seeds))
    n_train, n_held_out = len(draws[0]), len(split.held_out)
    if n_train < 2 or not n_held_out:
        raise ValueError(
            f"{numbers}: {len(split.students)} rows, of which a bias would be trained on {n_train} and judged on {n_held_out}; "
            "raise its fraction or held_out, or make more rows pass the filter"
        )
    judged = training_rows(loaded.tokenizer, *texts(split.held_out.head(settings.held_out_rows)))
    return [Draw(training_rows(loaded.tokenizer, *texts(draw)), judged) for draw in draws]


def prefilled(
    loaded: LoadedModel,
    rows: Sequence[Row],
    layers: Sequence[int],
    batch_size: int,
    all_positions: bool = False,
    store: str = "cpu",
) -> list[Prefilled]:
    """Run each batch of rows of near-equal length once, and keep it on the device `store`."""
    order = sorted(rows, key=lambda row: len(row.ids))
    parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [prefill(loaded, part, layers, all_positions, store) for part in parts]


class ProximalAdam:
    """Adam for a smooth loss plus l1·‖b‖₁: each step ends with a soft threshold in Adam's own metric, which gives exact zeros.

    Source: Yun, Lozano, Yang 2021, "Adaptive proximal gradient methods for structured neural networks" (ProxGen), algorithm 1.
    """

    def __init__(self, parameter: Float[Tensor, "..."], l1: float = 0.0):
        self.parameter, self.l1 = parameter, l1
        self.adam = torch.optim.Adam([parameter], eps=1e-8)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Take one step along the gradient that the parameter has."""
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        if self.l1:
            state = self.adam.state[self.parameter]
            # Adam scales each coordinate by the root of its second moment, corrected for the start at 0. The threshold is
            # scaled alike.
            second = state["exp_avg_sq"] / (1 - 0.999 ** float(state["step"]))
            threshold = lr * self.l1 / (second.sqrt() + 1e-8)
            self.parameter.copy_(self.parameter.sign() * (self.parameter.abs() - threshold).clamp(min=0))
        self.parameter.grad = None


def slope(
    bias: Float[Tensor, "*shape"], biased: Biased, batch: Prefilled, n_labels: int, batch_size: BatchSize
) -> tuple[Float[Tensor, ""], Float[Tensor, "*shape"]]:
    """Return the batch's summed loss divided by `n_labels`, and its gradient by the bias; as many rows run at once as fit."""

    def attempt(at_once: int) -> tuple[Tensor, Tensor]:
        total, gradient = bias.new_zeros(()), torch.zeros_like(bias)
        for stored in batch.parts(at_once):
            part = stored.to(bias.device)
            loss = losses(biased(bias, part), part).sum() / n_labels
            gradient += torch.autograd.grad(loss, bias)[0]
            total += loss.detach()
        return total, gradient

    return batch_size.retried(attempt, len(batch.ids))


def train_bias(
    shape: Sequence[int],
    biased: Biased,
    batches: Sequence[Prefilled],
    settings: Bias,
    seed: int,
    device: torch.device,
    batch_size: BatchSize,
    l1: float = 0.0,
) -> Float[Tensor, "..."]:
    """Train a bias of this shape, starting at 0, to lower the mean loss over the label tokens of the batches.

    `batch_size` says how many rows of a batch are run at once; a step always takes the whole batch.
    """
    bias = torch.zeros(*shape, device=device, requires_grad=True)
    optimizer, rng = ProximalAdam(bias, l1), np.random.default_rng(seed)
    order: list[int] = []
    for step in range(settings.steps):
        order = order or rng.permutation(len(batches)).tolist()
        batch = batches[order.pop()]
        loss, bias.grad = slope(bias, biased, batch, len(batch.targets), batch_size)
        if not torch.isfinite(loss):
            raise NotFiniteError(f"loss {loss.item()} at step {step} of a bias; lower its learning rate, now {settings.lr}")
        optimizer.step(settings.lr * (1 - step / settings.steps))
    return bias.detach()


def gradient(
    shape: Sequence[int], biased: Biased, batches: Sequence[Prefilled], device: torch.device, batch_size: BatchSize
) -> Float[Tensor, "..."]:
    """The gradient of the mean loss over all label tokens with respect to a bias of this shape, at 0."""
    bias = torch.zeros(*shape, device=device, requires_grad=True)
    n_labels = sum(len(batch.targets) for batch in batches)
    total = torch.zeros_like(bias)
    for batch in batches:
        total += slope(bias, biased, batch, n_labels, batch_size)[1]
    return total


@torch.no_grad()
def row_losses(
    bias: Float[Tensor, "..."], biased: Biased, batches: Sequence[Prefilled], batch_size: BatchSize
) -> Float[np.ndarray, " n_rows"]:
    """Return each row's mean loss with a bias, in nats per label token; rows are in the batches' order."""

    def attempt(batch: Prefilled, at_once: int) -> Tensor:
        parts = (stored.to(bias.device) for stored in batch.parts(at_once))
        return torch.cat([by_row(losses(biased(bias, part), part), part) for part in parts])

    by_batch = [batch_size.retried(partial(attempt, batch), len(batch.ids)) for batch in batches]
    return torch.cat(by_batch).double().cpu().numpy()


def loss_report(before: Float[np.ndarray, " n_rows"], after: Float[np.ndarray, " n_rows"]) -> dict[str, Any]:
    """Return the mean loss without and with a bias, in nats per token, from the rows' losses, and the `gain` with its test."""
    return {"before": before.mean(), "after": after.mean(), "gain": mean_interval(before - after).with_p()}


def biased_at(
    model: Any, point: str, layer: int, bias: Float[Tensor, " width"], batch: Prefilled
) -> Float[Tensor, "n_labels vocab"]:
    """The logits with `bias` at a hook point of one layer."""
    if point == "resid_post":
        return run_above(model, batch, layer, batch.residual[layer] + bias.to(batch.residual[layer]))
    with added(model, point, layer, bias):
        return run_above(model, batch, layer - 1)


def biased_everywhere(
    model: Any, point: str, biases: Float[Tensor, "n_layers width"], batch: Prefilled
) -> Float[Tensor, "n_labels vocab"]:
    """The logits with `biases` at a hook point of every layer."""
    with ExitStack() as stack:
        for layer, bias in enumerate(biases):
            stack.enter_context(added(model, point, layer, bias))
        return run(model, batch)


def agreement(biases: Float[Tensor, "n_seeds d"]) -> float | None:
    """The mean cosine between the biases of different seeds; None with one seed."""
    if len(biases) < 2:
        return None
    unit = functional.normalize(biases, dim=-1)
    return float((unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool)].mean())
