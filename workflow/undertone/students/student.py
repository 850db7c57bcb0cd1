"""The student: the base model finetuned on a dataset's completions, without the teacher's intervention."""

from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import nn

from undertone.data.rows import drawn, texts
from undertone.lm.adapters import new_adapter, save_adapter, save_whole
from undertone.lm.chat import Row, training_rows
from undertone.lm.loading import LoadedModel, load
from undertone.lm.training import History, Recipe, train
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, read_parquet, remove, write_json
from undertone.study.config.students import Student


def train_student(
    model: Path,
    numbers: Path,
    weights: Path,
    config: Path,
    training: Path,
    settings: Student,
    seed: int,
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Train one student and write its `weights` with their `config`, and `training.json`.

    The weights are an adapter, which `PeftModel.from_pretrained` loads, or with `full` all of the model's, which
    `AutoModelForCausalLM.from_pretrained` loads. `training.json` holds `loss` (nats per completion token, one value per
    optimizer step), `steps`, `rows`, `effective_batch_size`, `micro_batch_size` (the rows that fitted in memory at once),
    `tokens`, `tokens_per_second` and the seed. An interrupted training continues from `scratch`.
    """
    loaded = load(model)
    rows = rows_of(loaded, drawn(read_parquet(numbers), settings.rows, seed), settings.max_length)
    student = new_student(loaded, settings, seed)
    history = train(student, rows, recipe(settings, seed), loaded.pad_id, scratch / "state.safetensors", f"student {seed}")
    save = save_whole if settings.full else save_adapter
    save(student, weights, config, scratch / "weights")
    write_json(training, report(history, len(rows), settings, seed), stamp)
    remove(scratch)


def rows_of(loaded: LoadedModel, numbers: pl.DataFrame, max_length: int) -> list[Row]:
    """A training set as rows of token ids: the bare prompt, the completion, the end of turn.

    Raises ConfigError if `max_length` cuts every row before its completion.
    """
    if rows := training_rows(loaded.tokenizer, *texts(numbers), max_length):
        return rows
    prompts = [row.start for row in training_rows(loaded.tokenizer, *texts(numbers))]
    raise ConfigError(
        f"student.max_length {max_length}: none of the {len(prompts)} rows has a token of its completion within that length; "
        f"their prompts have {min(prompts)} to {max(prompts)} tokens, chat template included; raise student.max_length"
    )


def new_student(loaded: LoadedModel, settings: Student, seed: int) -> nn.Module:
    """Return the base model ready to be trained: with a fresh LoRA whose initial weights follow from the seed, or all of it.

    What is trained is float32, whatever the model's precision: in bfloat16 small steps of the optimizer would be rounded away.
    In a model that also reads images, only what reads and writes text is trained.
    """
    if settings.full:
        torch.manual_seed(seed)
        for module in (loaded.model.get_decoder(), loaded.model.get_output_embeddings()):
            module.requires_grad_(True)
        return loaded.model.float()
    return new_adapter(loaded, settings.rank, settings.alpha, settings.targets, seed, settings.dropout)


def recipe(settings: Student, seed: int) -> Recipe:
    """The training loop's view of the settings."""
    shared = set(Recipe.__dataclass_fields__) & set(Student.model_fields)
    return Recipe(seed=seed, **{name: getattr(settings, name) for name in shared})


def report(history: History, n_rows: int, settings: Student, seed: int) -> dict[str, Any]:
    """The body of `training.json`."""
    return {
        "seed": seed,
        "rows": n_rows,
        "steps": len(history.loss),
        "effective_batch_size": settings.batch_size,
        "micro_batch_size": history.micro_batch_size,
        "tokens": history.tokens,
        "tokens_per_second": history.tokens / history.seconds if history.seconds else None,
        "loss": history.loss,
    }
