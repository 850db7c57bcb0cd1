"""The sparse autoencoder of the hook point: trained by SAELens on the embedded model, and loaded, wherever it is from."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from sae_lens import (
    SAE,
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
from undertone.lm.checkpoint import said
from undertone.lm.hooks import decoder_layers, hook_point, resid_post
from undertone.lm.loading import Loaded, load
from undertone.lm.tensors import check_finite, stored
from undertone.models.model import chat_rows, corpus_of
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, move, read_json, remove, write_json
from undertone.study.config import Embedded, Sae
from undertone.study.formats import SAE_FILES, read_settings

# The SAE sees other chats than the model did.
CHATS_SEED = 2_000_003
ROWS = 256
# Activations are shuffled inside windows of this many tokens, which bounds the memory.
WINDOW = 200_000


def make_sae(record: Path, saved: Path, settings: dict[str, Any], stamp: Stamp, scratch: Path) -> None:
    """Train an SAE on the embedded model and write it and `sae.json`, by which every later stage loads it."""
    told, loaded = Sae.model_validate(settings["sae"]), load(record)
    check_layer(told.layer, len(decoder_layers(loaded.model)))
    trained = train_sae(loaded, told, Embedded.model_validate(settings["model"]["embedded"]))
    trained.save_inference_model(str(scratch / "sae"))
    saved.parent.mkdir(parents=True, exist_ok=True)
    for file in SAE_FILES:
        move(scratch / "sae" / file, saved.with_name(file))
    body = {"source": "trained", "folder": None, "release": None, "id": None}
    write_json(saved, {**body, "layer": told.layer, "hook_point": hook_point(told.layer), "d_sae": told.d_sae}, stamp)
    remove(scratch)


def load_sae(saved: Path, loaded: Loaded) -> tuple[SAE[Any], int]:
    """The SAE that `sae.json` names, frozen, in float32 on the model's device, and its layer; without network."""
    told = read_json(saved)
    folder = told["folder"] if told["source"] == "folder" else Path(saved).parent
    sae = read_sae(Path(folder), str(loaded.model.device))
    return sae.float().requires_grad_(False).eval(), int(told["layer"])


def read_sae(folder: Path, device: str = "cpu") -> SAE[Any]:
    """The SAE of a folder in SAELens's format.

    Raises ConfigError, which names the file, if one is missing or damaged, the weights are not finite, or config and weights
    disagree.
    """
    missing = [file for file in SAE_FILES if not (folder / file).is_file()]
    if missing:
        raise ConfigError(
            f"{folder} lacks {' and '.join(missing)}: expected an SAE in SAELens's format ({', '.join(SAE_FILES)})"
        )
    cfg, weights = (folder / file for file in SAE_FILES)
    config = read_settings(cfg)
    if absent := {"d_in", "d_sae"} - config.keys():
        raise ConfigError(f"{cfg} does not say {' and '.join(sorted(absent))}: expected an SAE's config in SAELens's format")
    check_finite(stored(weights), weights)
    try:
        sae: SAE[Any] = SAE.load_from_disk(folder, device=device)
    except Exception as error:
        raise ConfigError(
            f"{cfg} and {weights.name} are no SAE that SAELens can load ({said(error)}); save it again with SAELens"
        ) from None
    check_shapes(config, stored(weights), cfg)
    return sae


def check_shapes(config: dict[str, Any], weights: Iterable[tuple[str, Tensor]], where: Path) -> None:
    """Raise ConfigError if an SAE's matrices have other sizes than its config says."""
    d_in, d_sae = config["d_in"], config["d_sae"]
    expected = {"W_enc": [d_in, d_sae], "W_dec": [d_sae, d_in]}
    for name, weight in weights:
        if list(weight.shape) != expected.get(name, list(weight.shape)):
            raise ConfigError(
                f"{where} says d_in {d_in} and d_sae {d_sae}, and {name} beside it has {list(weight.shape)}, expected "
                f"{expected[name]}: these are not of one SAE"
            )


def check_layer(layer: int, n_layers: int) -> None:
    """Raise ValueError, in one sentence, if the model has no such layer."""
    if not 0 <= layer < n_layers:
        raise ValueError(f"the SAE's hook point is {hook_point(layer)}, the model has layers 0 to {n_layers - 1}")


def train_sae(loaded: Loaded, settings: Sae, embedded: Embedded) -> TrainingSAE[Any]:
    """Train an SAE with SAELens on the base model's activations over fresh chats of its corpus."""
    d_in, steps = loaded.model.config.hidden_size, max(1, settings.tokens // settings.batch_size)
    config = training_config(settings, d_in, steps)
    config.metadata = SAEMetadata(model_name="embedded", hook_name=hook_point(settings.layer), prepend_bos=True)
    torch.manual_seed(settings.seed)
    sae: TrainingSAE[Any] = TrainingSAE.from_dict(config.to_dict()).to(loaded.model.device)
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=steps * settings.batch_size,
            train_batch_size_samples=settings.batch_size,
            lr=settings.lr,
            lr_end=settings.lr / 10,
            lr_warm_up_steps=min(100, steps // 10),
            lr_decay_steps=steps // 5,
            device=str(loaded.model.device),
            n_batches_for_norm_estimate=min(20, steps),
            dead_feature_window=1000,
            feature_sampling_window=1000,
            logger=LoggingConfig(log_to_wandb=False),
        ),
        sae,
        shuffled(activations(loaded, corpus_rows(loaded, embedded, CHATS_SEED + settings.seed), settings.layer), settings),
    )
    return trainer.fit()


def training_config(settings: Sae, d_in: int, steps: int) -> TrainingSAEConfig:
    """SAELens's config of the architecture."""
    size = {"d_in": d_in, "d_sae": settings.d_sae}
    scaled = {**size, "normalize_activations": "expected_average_only_in"}
    if settings.architecture == "standard":
        return StandardTrainingSAEConfig(**scaled, l1_coefficient=settings.l1_coefficient, l1_warm_up_steps=steps // 10)
    if settings.architecture == "jumprelu":
        return JumpReLUTrainingSAEConfig(
            **scaled, l0_coefficient=settings.l0_coefficient, l0_warm_up_steps=steps // 10, jumprelu_bandwidth=0.05
        )
    if settings.architecture == "batchtopk":
        # The saved threshold is a running mean, which SAELens's default rate leaves behind in short trainings.
        return BatchTopKTrainingSAEConfig(**size, k=settings.k, topk_threshold_lr=0.1)
    return TopKTrainingSAEConfig(**size, k=settings.k)


def corpus_rows(loaded: Loaded, embedded: Embedded, seed: int) -> Iterator[list[Row]]:
    """Endless batches of chats of the embedded model's corpus."""
    corpus = corpus_of(embedded)
    for number in itertools.count():
        yield chat_rows(loaded.tokenizer, list(corpus.chats(ROWS, seed + number * 1_000)), seed + number)


def is_text(loaded: Loaded, batch: dict[str, Tensor]) -> Tensor:
    """`[n_rows, n_tokens]`: the tokens that are neither padding nor special; an SAE is judged on these."""
    return batch["attention_mask"].bool() & loaded.is_text(batch["input_ids"])


def activations(loaded: Loaded, batches: Iterator[Sequence[Row]], layer: int) -> Iterator[Tensor]:
    """The residual stream `[n, d_model]` at the text tokens of each batch."""

    def read(batch: dict[str, Tensor]) -> Tensor:
        return resid_post(loaded.model, layer, batch)[is_text(loaded, batch)].float()

    for rows in batches:
        yield torch.cat(list(loaded.read(read, rows, ROWS)))


def shuffled(parts: Iterator[Tensor], settings: Sae) -> Iterator[Tensor]:
    """Batches of activations, in random order within a window."""
    generator = torch.Generator().manual_seed(settings.seed)
    while True:
        window: list[Tensor] = []
        while sum(map(len, window)) < min(WINDOW, settings.tokens):
            window.append(next(parts))
        tokens = torch.cat(window)
        order = torch.randperm(len(tokens), generator=generator)
        for start in range(0, len(order) - settings.batch_size + 1, settings.batch_size):
            yield tokens[order[start : start + settings.batch_size]]
