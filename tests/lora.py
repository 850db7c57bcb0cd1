"""LoRAs of the tiny model that are trained to answer."""

from pathlib import Path

from undertone.lm.adapters import new_adapter, save_adapter
from undertone.lm.chat import training_rows
from undertone.lm.loading import load
from undertone.lm.training import train
from undertone.runtime.files import remove
from undertone.students.student import recipe
from undertone.study.config.students import Student


def adapter_files(folder: Path) -> tuple[Path, Path]:
    """The weights and the config of a LoRA in a folder."""
    return folder / "adapter_model.safetensors", folder / "adapter_config.json"


def whole_files(folder: Path) -> tuple[Path, Path]:
    """The same of a model of its own."""
    return folder / "model.safetensors", folder / "config.json"


def trained_lora(record: Path, folder: Path, questions: list[str], answers: list[str], seed: int = 1, epochs: int = 60) -> Path:
    """Train a LoRA into `folder` until the model gives these answers to these questions, and return the folder."""
    loaded = load(record)
    told = Student(rank=2, alpha=8, lr=1e-2, epochs=epochs, batch_size=8, micro_batch_size=8)
    model = new_adapter(loaded, told.rank, told.alpha, told.targets, seed)
    rows = training_rows(loaded.tokenizer, questions, answers, 64)
    train(model, rows, recipe(told, seed), loaded.pad_id, folder / "scratch/state")
    save_adapter(model, *adapter_files(folder), folder / "scratch")
    remove(folder / "scratch")
    return folder
