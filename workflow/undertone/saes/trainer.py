"""Training of an SAE with SAELens on a model's activations at a hook point, on any text."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from sae_lens import (
    BatchTopKTrainingSAEConfig,
    JumpReLUTrainingSAEConfig,
    LoggingConfig,
    SAETrainer,
    StandardTrainingSAEConfig,
    TopKTrainingSAEConfig,
    TrainingSAE,
)
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata, TrainingSAEConfig
from torch import Tensor

from undertone.lm.chat import Row
from undertone.lm.loading import LoadedModel
from undertone.lm.points import HookPoint, check_point, read_at
from undertone.runtime.files import Stamp, move, remove, write_json
from undertone.study.config.saes import Sae

# Activations are shuffled inside windows of this many tokens, which bounds the memory.
WINDOW = 200_000


def write_trained(
    loaded: LoadedModel,
    settings: Sae,
    batches: Iterator[Float[Tensor, "batch d_model"]],
    metadata: SAEMetadata,
    sae: Path,
    files: Sequence[Path],
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Train an SAE on endless batches of activations; write its `files` and `sae.json`, from which every later stage loads it.

    Raises ValueError, before training, if the model has no such hook point.
    """
    at = HookPoint.of(settings)
    check_point(at, loaded.model)
    blank = untrained(settings, loaded.model.config.get_text_config().hidden_size, metadata).to(loaded.model.device)
    trained = fitted(blank, settings, batches)
    trained.save_inference_model(str(scratch / "sae"))
    for file in files:
        move(scratch / "sae" / file.name, file)
    body = {"source": "trained", "folder": None, "release": None, "id": None}
    at_hook = {"layer": at.layer, "hook_point": at.name, "d_sae": settings.d_sae}
    write_json(sae, {**body, **at_hook}, stamp)
    remove(scratch)


def streamed(loaded: LoadedModel, settings: Sae, batches: Iterator[Sequence[Row]]) -> Iterator[Float[Tensor, "batch d_model"]]:
    """Yield batches of activations at an SAE's hook point, computed on demand from endless batches of rows."""
    return shuffled(usual(activations(loaded, batches, HookPoint.of(settings)), settings.max_norm), settings)


def untrained(settings: Sae, d_in: int, metadata: SAEMetadata) -> TrainingSAE[Any]:
    """Return an untrained SAE with weights drawn by the seed; torch's global generator goes on from there in training."""
    config = training_config(settings, d_in, steps_of(settings))
    config.metadata = metadata
    torch.manual_seed(settings.seed)
    return TrainingSAE.from_dict(config.to_dict())


def steps_of(settings: Sae) -> int:
    """Return the number of optimizer steps of a training."""
    return max(1, settings.tokens // settings.batch_size)


def fitted(sae: TrainingSAE[Any], settings: Sae, batches: Iterator[Float[Tensor, "batch d_in"]]) -> TrainingSAE[Any]:
    """Train an SAE on endless batches of activations, with the whole schedule of the learning rate."""
    steps = steps_of(settings)
    trainer = SAETrainer(
        # Schedule for any length: warm-up over a tenth of the training, at most 100 steps; decay over its last fifth.
        SAETrainerConfig(
            total_training_samples=steps * settings.batch_size,
            train_batch_size_samples=settings.batch_size,
            lr=settings.lr,
            lr_end=settings.lr / 10,
            lr_warm_up_steps=min(100, steps // 10),
            lr_decay_steps=steps // 5,
            device=str(sae.device),
            n_batches_for_norm_estimate=min(20, steps),
            dead_feature_window=settings.dead_steps,
            feature_sampling_window=1000,
            logger=LoggingConfig(log_to_wandb=False),
        ),
        sae,
        batches,
    )
    return trainer.fit()


def training_config(settings: Sae, d_in: int, steps: int) -> TrainingSAEConfig:
    """Return SAELens's training config for the architecture."""
    size = {"d_in": d_in, "d_sae": settings.d_sae}
    scaled = {**size, "normalize_activations": "expected_average_only_in"}
    if settings.architecture == "standard":
        return StandardTrainingSAEConfig(**scaled, l1_coefficient=settings.l1_coefficient, l1_warm_up_steps=steps // 10)
    if settings.architecture == "jumprelu":
        return JumpReLUTrainingSAEConfig(
            **scaled, l0_coefficient=settings.l0_coefficient, l0_warm_up_steps=steps // 10, jumprelu_bandwidth=0.05
        )
    if settings.architecture == "batchtopk":
        # The saved threshold is a running mean, which lags behind in short trainings at SAELens's default rate.
        return BatchTopKTrainingSAEConfig(**size, k=settings.k, topk_threshold_lr=0.1)
    return TopKTrainingSAEConfig(**size, k=settings.k)


def activations(loaded: LoadedModel, batches: Iterator[Sequence[Row]], at: HookPoint) -> Iterator[Float[Tensor, "_ d_model"]]:
    """Yield the activations at a hook point on the text tokens of each batch, without the first token of each row.

    The first token acts as a BOS, whatever it is, and its residual is often hundreds of times as large as others.
    """

    def read(batch: dict[str, Tensor]) -> Tensor:
        return read_at(loaded.model, at, batch)[:, 1:][loaded.text_mask(batch)[:, 1:]].float()

    for rows in batches:
        yield torch.cat(list(loaded.read(read, rows, len(rows))))


def usual(parts: Iterator[Float[Tensor, "_ d_model"]], max_norm: float) -> Iterator[Float[Tensor, "_ d_model"]]:
    """Yield each part without the vectors whose norm is more than `max_norm` times the part's median."""
    for x in parts:
        norms = x.norm(dim=-1)
        yield x[norms <= max_norm * norms.median()] if len(x) else x


def shuffled(parts: Iterator[Float[Tensor, "_ d_model"]], settings: Sae) -> Iterator[Float[Tensor, "batch d_model"]]:
    """Yield batches of activations in random order within a window."""
    generator = torch.Generator().manual_seed(settings.seed)
    while True:
        window: list[Tensor] = []
        while sum(map(len, window)) < max(settings.batch_size, min(WINDOW, settings.tokens)):
            window.append(next(parts))
        tokens = torch.cat(window)
        order = torch.randperm(len(tokens), generator=generator)
        for start in range(0, len(order) - settings.batch_size + 1, settings.batch_size):
            yield tokens[order[start : start + settings.batch_size]]
