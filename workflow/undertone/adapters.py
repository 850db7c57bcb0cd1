"""Trained weights: LoRA adapters in PEFT's format, or all weights of a model, made, saved and put to use."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from undertone.files import move, remove, replacing
from undertone.hub import identity
from undertone.loading import Loaded

ADAPTER, WHOLE = "adapter_model.safetensors", "model.safetensors"


def new_adapter(loaded: Loaded, rank: int, alpha: float, targets: Sequence[str], seed: int, dropout: float = 0.0) -> PeftModel:
    """The base model with a fresh LoRA whose initial weights follow from the seed.

    Where a model also sees, what it sees with has modules of the same names; no text ever reaches them, and they get none.
    """
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets), task_type="CAUSAL_LM")
    config.exclude_modules = [name for name in outside_decoder(loaded.model) if name.endswith(tuple(targets))] or None
    return get_peft_model(loaded.model, config)


def outside_decoder(model: PreTrainedModel) -> Iterator[str]:
    """The names of the modules that belong neither to a causal language model's decoder nor to its unembedding."""
    inside = {*model.get_decoder().modules(), model.get_output_embeddings()}
    yield from (name for name, module in model.named_modules() if not inside & set(module.modules()))


def save_adapter(model: PeftModel, adapter: Path, scratch: Path) -> None:
    """Write `adapter_model.safetensors` at `adapter` and `adapter_config.json` beside it, equal bytes for equal adapters."""
    model.save_pretrained(scratch)
    config = json.loads((scratch / "adapter_config.json").read_text())
    config["target_modules"] = sorted(config["target_modules"])  # a set, whose order changes from run to run
    if base := identity(config["base_model_name_or_path"]):  # PEFT writes where this machine keeps the model
        config["base_model_name_or_path"], config["revision"] = base
    with replacing(adapter.with_name("adapter_config.json")) as temporary:
        temporary.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    move(scratch / adapter.name, adapter)
    remove(adapter.with_name(WHOLE))  # of a training with other settings


def save_whole(model: nn.Module, weights: Path, scratch: Path) -> None:
    """Write every weight at `weights`, a `model.safetensors`, and `config.json` beside it."""
    model.save_pretrained(scratch)  # type: ignore[operator]
    for name in ("config.json", weights.name):
        move(scratch / name, weights.with_name(name))
    remove(weights.with_name(ADAPTER))  # of a training with other settings


@contextmanager
def finetuned(loaded: Loaded, folder: Path) -> Iterator[Loaded]:
    """Inside, the model that was trained into `folder`: the base model with its LoRA, or one with weights of its own."""
    if (folder / WHOLE).exists():
        whole = AutoModelForCausalLM.from_pretrained(folder, dtype=loaded.model.dtype, use_safetensors=True)
        yield replace(loaded, model=whole.to(loaded.model.device).requires_grad_(False).eval())
        return
    model = PeftModel.from_pretrained(loaded.model, str(folder)).eval()
    try:
        yield replace(loaded, model=model)
    finally:
        model.unload()
