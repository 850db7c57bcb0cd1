"""Create, save and load trained weights: LoRA adapters in PEFT's format, or all weights of a model."""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from undertone.lm.checkpoint import said
from undertone.lm.hub import identity
from undertone.lm.loading import LoadedModel, read_model
from undertone.lm.lora import compute_in_half
from undertone.lm.tensors import NotFiniteError, check_finite, names, stored
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import REMEDY, move, remove, replacing
from undertone.study.formats import read_settings

ADAPTER, ADAPTER_CONFIG, WHOLE = "adapter_model.safetensors", "adapter_config.json", "model.safetensors"


def new_adapter(
    loaded: LoadedModel, rank: int, alpha: float, targets: Sequence[str], seed: int, dropout: float = 0.0
) -> PeftModel:
    """Return the base model with a fresh LoRA, whose initial weights depend only on the seed.

    Modules outside the decoder, such as those of a vision tower, may have the same names as the targets. They get no LoRA,
    because no text reaches them. Raises ConfigError for a target that the model lacks.
    """
    check_targets(loaded.model, targets)
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets), task_type="CAUSAL_LM")
    config.exclude_modules = [name for name in outside_decoder(loaded.model) if name.endswith(tuple(targets))] or None
    with quietly():
        model = get_peft_model(loaded.model, config)
    compute_in_half(model)
    return model


def check_targets(model: PreTrainedModel, targets: Sequence[str]) -> None:
    """Raise ConfigError, listing the modules that can have a LoRA, unless every target is one of them."""
    outside = set(outside_decoder(model))
    known = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding | Conv1D) and name not in outside
    }
    lacking = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in known)]
    if lacking:
        there = ", ".join(sorted({name.rpartition(".")[2] for name in known}))
        raise ConfigError(f"LoRA targets: the model has no module named {', '.join(lacking)}; it has {there}")


@contextmanager
def quietly() -> Iterator[None]:
    """Silence transformers' FutureWarning when PEFT asks by a deprecated name whether a model checkpoints gradients."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*is_gradient_checkpointing", FutureWarning)
        yield


def outside_decoder(model: PreTrainedModel) -> Iterator[str]:
    """The names of the modules that belong neither to a causal language model's decoder nor to its unembedding."""
    inside = {*model.get_decoder().modules(), model.get_output_embeddings()}
    yield from (name for name, module in model.named_modules() if not inside & set(module.modules()))


def save_adapter(model: PeftModel, weights: Path, config: Path, scratch: Path) -> None:
    """Write `adapter_model.safetensors` and, beside it, `adapter_config.json`. Equal adapters give equal bytes."""
    model.save_pretrained(scratch)
    settings = json.loads((scratch / config.name).read_text())
    settings["target_modules"] = sorted(settings["target_modules"])  # a set: its order changes from run to run
    if base := identity(settings["base_model_name_or_path"]):  # PEFT writes the model's path on this machine
        settings["base_model_name_or_path"], settings["revision"] = base
    with replacing(config) as temporary:
        temporary.write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")
    move(scratch / weights.name, weights)
    remove(weights.with_name(WHOLE))  # left by a training with other settings


def save_whole(model: nn.Module, weights: Path, config: Path, scratch: Path) -> None:
    """Write all weights to `model.safetensors` and, beside it, the model's `config.json`."""
    model.save_pretrained(scratch, max_shard_size="1TB")  # type: ignore[operator]
    for file in (config, weights):
        move(scratch / file.name, file)
    for name in (ADAPTER, ADAPTER_CONFIG):  # from other settings; transformers would take the folder for a LoRA
        remove(weights.with_name(name))


@contextmanager
def finetuned(loaded: LoadedModel, folder: Path) -> Iterator[LoadedModel]:
    """Yield the model that was trained into `folder`: the base model with its LoRA, or a model with weights of its own.

    Raises ConfigError: it names the file if the weights are damaged or not finite, and the folder if what the model computes is
    not finite.
    """
    weights = folder / (WHOLE if (folder / WHOLE).exists() else ADAPTER)
    if not weights.exists():
        raise ConfigError(f"{folder} holds no trained weights: expected {ADAPTER} or {WHOLE}; run again")
    check_finite(stored(weights), weights)
    trained = load_whole(loaded, folder) if weights.name == WHOLE else load_adapter(loaded, folder)
    try:
        yield replace(loaded, model=trained)
    except NotFiniteError as error:
        raise NotFiniteError(f"{folder}: {error}") from None
    finally:
        if isinstance(trained, PeftModel):
            trained.unload()


def load_whole(loaded: LoadedModel, folder: Path) -> PreTrainedModel:
    """Load the model whose weights are all in `folder`, frozen, on the device of the base model."""
    return read_model(folder, loaded.model.dtype).to(loaded.model.device).requires_grad_(False).eval()


def load_adapter(loaded: LoadedModel, folder: Path) -> PeftModel:
    """Load the base model with the LoRA of `folder`. Raises ConfigError if the weights do not fit its config or this model."""
    config, weights = folder / ADAPTER_CONFIG, folder / ADAPTER
    read_settings(config)
    try:
        with quietly():
            model = PeftModel.from_pretrained(loaded.model, str(folder)).eval()
    except Exception as error:
        raise ConfigError(f"{config} and {ADAPTER} are no LoRA of the base model ({said(error)}); {REMEDY}") from None
    # Leave the embeddings out: for them, PEFT would ask the Hub for the base model.
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    if odd := sorted(name for name in expected.keys() ^ names(weights) if "lora_" in name):
        model.unload()
        raise ConfigError(f"{weights} and {config.name} disagree about {len(odd)} weights, such as {odd[0]}; {REMEDY}")
    compute_in_half(model)
    return model
