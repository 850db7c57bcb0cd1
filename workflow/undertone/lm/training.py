"""The training loop of every stage that trains: length-bucketed batches, logits only at labels, bit-exact resumption."""

import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from undertone.lm.chat import Row
from undertone.lm.tensors import HALF, NotFiniteError
from undertone.runtime.files import replacing, whole
from undertone.runtime.memory import BatchSize
from undertone.runtime.progress import progress

# Rows are sorted by length inside windows of this many batches: little padding, and still a random order.
WINDOW = 16
# Between checkpoints pass at least this many seconds, and at least this many times as long as the last one took to write.
CHECKPOINT_SECONDS = 5.0
CHECKPOINT_SHARE = 50


@dataclass(frozen=True)
class Recipe:
    """The settings of a training. An optimizer step sees `batch_size` rows, `micro_batch_size` at a time."""

    epochs: int
    batch_size: int
    lr: float
    schedule: str
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float
    micro_batch_size: int
    seed: int
    beta2: float = 0.999


@dataclass
class History:
    """The record of a training: mean loss of each optimizer step (nats per label token), tokens seen, seconds taken.

    `micro_batch_size` is the number of rows that fitted in memory at once.
    """

    micro_batch_size: int
    loss: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0


def collate(rows: Sequence[Row], pad_id: int, device: torch.device | str) -> dict[str, Int[Tensor, "n_rows longest"]]:
    """Right-pad rows to `input_ids`, `attention_mask` and `labels`; -100 marks a token without a label."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), pad_id)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), -100)
    for i, row in enumerate(rows):
        n = len(row.ids)
        ids[i, :n] = torch.tensor(row.ids)
        mask[i, :n] = 1
        labels[i, max(row.start, 1) : n] = ids[i, max(row.start, 1) : n]
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}


@contextmanager
def logits_only_at(model: nn.Module, keep: Bool[Tensor, "n_rows n_tokens"]) -> Iterator[None]:
    """Within the `with` block, the model returns logits `[1, n_kept, vocab]` for the positions where `keep` is true.

    The hidden states are selected before the unembedding. Whatever the architecture does to its logits (softcapping, scaling)
    still happens, on fewer of them.
    """

    def select(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][keep].unsqueeze(0), *args[1:])

    head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    with head.register_forward_pre_hook(select):
        yield


def label_logits(model: nn.Module, batch: dict[str, Int[Tensor, "n_rows n_tokens"]]) -> Float[Tensor, "n_labels vocab"]:
    """The logits that predict each label token of a `collate`d batch, in row order."""
    keep = functional.pad(batch["labels"][:, 1:] != -100, (0, 1))
    with logits_only_at(model, keep):
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    logits: Tensor = output.logits
    return logits.squeeze(0).float()


def label_losses(model: nn.Module, batch: dict[str, Int[Tensor, "n_rows n_tokens"]]) -> Float[Tensor, " n_labels"]:
    """Loss of each label token of a `collate`d batch, in nats, in row order."""
    targets = batch["labels"][:, 1:]
    return functional.cross_entropy(label_logits(model, batch), targets[targets != -100], reduction="none")


def length_bucketed(lengths: Sequence[int], batch_size: int, rng: np.random.Generator) -> list[Int[np.ndarray, " _"]]:
    """Split row indices into batches of near-equal length, in random order; every row is in exactly one batch."""
    order = rng.permutation(len(lengths))
    sizes = np.asarray(lengths)
    batches = []
    for window in np.split(order, range(WINDOW * batch_size, len(order), WINDOW * batch_size)):
        window = window[np.argsort(sizes[window], kind="stable")]
        batches += np.split(window, range(batch_size, len(window), batch_size))
    rng.shuffle(indices := np.arange(len(batches)))
    return [batches[i] for i in indices]


def learning_rate(step: int, n_steps: int, recipe: Recipe) -> float:
    """The learning rate of optimizer step `step` (from 0): warm-up, then constant, or linear or cosine decay to 0."""
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / recipe.warmup_steps
    if recipe.schedule == "constant":
        return recipe.lr
    left = 1 - (step - recipe.warmup_steps) / max(1, n_steps - recipe.warmup_steps)
    return recipe.lr * (left if recipe.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2)


def n_steps(n_rows: int, recipe: Recipe) -> int:
    """Number of optimizer steps of a training."""
    return recipe.epochs * math.ceil(n_rows / recipe.batch_size)


def train(
    model: nn.Module,
    rows: Sequence[Row],
    recipe: Recipe,
    pad_id: int,
    checkpoint: Path,
    what: str = "training",
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> History:
    """Train the parameters that require gradients, with AdamW on the rows' completions.

    The state is saved at `checkpoint` about every `checkpoint_seconds`. A call that finds it continues from there and ends with
    the same weights, to the bit, as an uninterrupted call. The caller removes it once its result is written. A micro-batch that
    does not fit in memory is halved for the rest of the training; the effective batch stays the same.
    """
    if not rows:
        raise ValueError(f"{what}: no rows to train on")
    device = next(model.parameters()).device
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = adamw(weights.values(), recipe)
    history, total = History(recipe.micro_batch_size), n_steps(len(rows), recipe)
    if checkpoint.exists():
        history = _load_state(checkpoint, weights, optimizer)  # go on from there
    done, due, started = len(history.loss), time.monotonic() + checkpoint_seconds, time.monotonic() - history.seconds
    lengths = [len(row.ids) for row in rows]
    size = BatchSize(history.micro_batch_size, f"{what}: micro-batch of an effective batch of {recipe.batch_size}")
    model.train()
    with unfused_attention(model), progress(total, what, "step", initial=done) as bar:
        for step, indices in enumerate(_schedule(lengths, recipe)):
            if step < done:
                continue
            # One step: gradients are added up over micro-batches as large as fit, and clipped.
            set_learning_rate(optimizer, learning_rate(step, total, recipe))
            batch = [rows[i] for i in indices]
            accumulate = partial(_accumulate, model, batch, pad_id, device, recipe.seed * 1_000_003 + step)
            history.loss.append(size.retried(accumulate, len(batch)))
            history.micro_batch_size = size.rows
            history.tokens += sum(lengths[i] for i in indices)
            norm = nn.utils.clip_grad_norm_(weights.values(), recipe.max_grad_norm)
            check_step(what, step, history.loss[-1], norm)
            optimizer.step()
            bar.update()
            history.seconds = time.monotonic() - started
            if time.monotonic() > due:
                begun = time.monotonic()
                _save_state(checkpoint, weights, optimizer, history)
                due = time.monotonic() + max(checkpoint_seconds, CHECKPOINT_SHARE * (time.monotonic() - begun))
    model.zero_grad()
    model.eval()
    return history


@contextmanager
def unfused_attention(model: nn.Module) -> Iterator[None]:
    """Within the `with` block, a model in half precision on a CPU computes attention without PyTorch's fused kernel.

    The backward pass of fused attention is slow there: on SmolLM2, a step takes 1.3 times as long with it.
    """
    inner = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    slow = inner is not None and inner.device.type == "cpu" and inner.dtype in HALF
    if inner is None or not slow or inner.config._attn_implementation != "sdpa":
        yield
        return
    inner.set_attn_implementation("eager")
    try:
        yield
    finally:
        inner.set_attn_implementation("sdpa")


def adamw(weights: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.AdamW:
    """Return the optimizer of a training."""
    betas = (0.9, recipe.beta2)
    return torch.optim.AdamW(weights, lr=recipe.lr, betas=betas, weight_decay=recipe.weight_decay, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give all weights one learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def check_step(what: str, step: int, loss: float, norm: Float[Tensor, ""]) -> None:
    """Raise NotFiniteError if a step's loss, or the norm of its gradient, is NaN or infinite."""
    if not (math.isfinite(loss) and torch.isfinite(norm)):
        raise NotFiniteError(f"{what}: loss {loss}, gradient {norm} at step {step}; lower the learning rate")


def _schedule(lengths: Sequence[int], recipe: Recipe) -> Iterator[np.ndarray]:
    for epoch in range(recipe.epochs):
        yield from length_bucketed(lengths, recipe.batch_size, np.random.default_rng([recipe.seed, epoch]))


def _accumulate(model: nn.Module, batch: list[Row], pad_id: int, device: torch.device, seed: int, micro: int) -> float:
    """Return the batch's mean loss; accumulate its gradient over micro-batches. Every label token weighs the same."""
    model.zero_grad()  # gradients may hold part of a micro-batch that did not fit
    torch.manual_seed(seed)
    n_labels = sum(len(row.ids) - max(row.start, 1) for row in batch)
    loss = 0.0
    for i in range(0, len(batch), micro):
        part = label_losses(model, collate(batch[i : i + micro], pad_id, device)).sum() / n_labels
        part.backward()  # type: ignore[no-untyped-call]
        loss += part.item()
    return loss


# AdamW's names for what it keeps of a weight, and the names in a checkpoint.
MOMENTS = {"step": "step", "exp_avg": "mean", "exp_avg_sq": "square"}


def _save_state(path: Path, weights: dict[str, nn.Parameter], optimizer: torch.optim.AdamW, history: History) -> None:
    tensors: dict[str, Tensor] = {}
    for name, p in weights.items():
        # A weight that no row has reached yet, such as an expert's, has no moments.
        state = optimizer.state.get(p, {})
        tensors |= {f"weight.{name}": p.detach(), **{f"{MOMENTS[key]}.{name}": value for key, value in state.items()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            temporary,
            metadata={"history": json.dumps(vars(history))},
        )


def _load_state(path: Path, weights: dict[str, nn.Parameter], optimizer: torch.optim.AdamW) -> History:
    with whole(path), safe_open(path, framework="pt", device=str(next(iter(weights.values())).device)) as file:
        history = History(**json.loads(file.metadata()["history"]))
        names = set(file.keys())
        with torch.no_grad():
            for name, p in weights.items():
                p.copy_(file.get_tensor(f"weight.{name}"))
                if f"step.{name}" in names:
                    optimizer.state[p] = {key: file.get_tensor(f"{own}.{name}") for key, own in MOMENTS.items()}
    return history
