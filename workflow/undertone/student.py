"""The student: the base model with a LoRA finetuned on a dataset's completions, the teacher's intervention removed."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from undertone.chat import Row, training_rows
from undertone.config import Student
from undertone.files import Stamp, remove, replacing, write_json
from undertone.loading import Loaded, load
from undertone.training import History, Recipe, train


def train_student(
    record: Path,
    numbers: Path,
    adapter: Path,
    training: Path,
    settings: dict[str, Any],
    seed: int,
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Train one student and write its adapter, which `PeftModel.from_pretrained` loads, and `training.json`.

    `training.json` holds `loss` (nats per completion token, one value per optimizer step), `steps`, `rows`,
    `effective_batch_size`, `tokens`, `tokens_per_second` and the seed. An interrupted training continues from `scratch`.
    """
    told = Student.model_validate(settings)
    loaded = load(record)
    rows = rows_of(loaded, pl.read_parquet(numbers), told.max_length)
    model = new_student(loaded, told, seed)
    history = train(model, rows, recipe(told, seed), loaded.pad_id, scratch / "state.safetensors", f"student {seed}")
    save_adapter(model, adapter, scratch / "adapter")
    write_json(training, report(history, len(rows), told, seed), stamp)
    remove(scratch)


def rows_of(loaded: Loaded, numbers: pl.DataFrame, max_length: int) -> list[Row]:
    """A training set as rows of token ids: the bare prompt, the completion, the end of turn."""
    return training_rows(loaded.tokenizer, numbers["prompt"].to_list(), numbers["completion"].to_list(), max_length)


def new_student(loaded: Loaded, settings: Student, seed: int) -> PeftModel:
    """The base model with a fresh LoRA whose initial weights follow from the seed."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(loaded.model, config)


def recipe(settings: Student, seed: int) -> Recipe:
    """The training loop's view of the settings."""
    shared = set(Recipe.__dataclass_fields__) & set(Student.model_fields)
    return Recipe(seed=seed, **{name: getattr(settings, name) for name in shared})


def save_adapter(model: PeftModel, adapter: Path, scratch: Path) -> None:
    """Write `adapter_model.safetensors` at `adapter` and `adapter_config.json` beside it, equal bytes for equal students."""
    model.save_pretrained(scratch)
    config = json.loads((scratch / "adapter_config.json").read_text())
    config["target_modules"] = sorted(config["target_modules"])  # a set, whose order changes from run to run
    with replacing(adapter.with_name("adapter_config.json")) as temporary:
        temporary.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    with replacing(adapter) as temporary:
        shutil.move(scratch / adapter.name, temporary)


@contextmanager
def finetuned(loaded: Loaded, adapter: Path) -> Iterator[Loaded]:
    """Inside, the base model carries a student's LoRA, read from the folder `adapter`."""
    student = PeftModel.from_pretrained(loaded.model, str(adapter)).eval()
    try:
        yield replace(loaded, model=student)
    finally:
        student.unload()


def report(history: History, n_rows: int, settings: Student, seed: int) -> dict[str, Any]:
    """The body of `training.json`."""
    return {
        "seed": seed,
        "rows": n_rows,
        "steps": len(history.loss),
        "effective_batch_size": settings.batch_size,
        "tokens": history.tokens,
        "tokens_per_second": history.tokens / history.seconds if history.seconds else None,
        "loss": history.loss,
    }
