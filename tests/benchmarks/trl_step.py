"""Training a student: undertone's loop and TRL's SFTTrainer on the same rows, with the same labels, LoRA and optimizer.

Needs TRL, which undertone does not: `pip install --no-deps --target FOLDER trl==1.16.0`, and FOLDER on PYTHONPATH.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
import trl
from datasets import Dataset
from student_step import number_rows
from timing import interleaved, parser, report, start

from undertone.lm.chat import Row
from undertone.lm.loading import LoadedModel
from undertone.lm.training import train
from undertone.students.student import new_student, recipe
from undertone.study.config.students import Student


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=2000, help="rows trained on, once a round")
    options.add_argument("--batch-size", type=int, default=32, help="rows per optimizer step")
    told = options.parse_args()
    loaded = start(told)
    transformers.logging.set_verbosity_error()
    rows = number_rows(loaded, told.rows)
    settings = Student(epochs=1, batch_size=told.batch_size, micro_batch_size=told.batch_size)
    model = new_student(loaded, settings, seed=1)
    initial = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    with tempfile.TemporaryDirectory() as folder:
        table = dataset(rows)
        ways = {
            "SFTTrainer": lambda: sft(model, loaded, table, settings, folder),
            "SFTTrainer, rows of like length together": lambda: sft(
                model, loaded, table, settings, folder, train_sampling_strategy="group_by_length"
            ),
            "undertone": lambda: train(model, rows, recipe(settings, 1), loaded.pad_id, Path("never"), checkpoint_seconds=1e9),
        }
        ways = {name: fresh(model, initial, run) for name, run in ways.items()}
        seconds = interleaved(ways, told.rounds)
    tokens = sum(len(row.ids) for row in rows)
    reference = seconds["SFTTrainer"]
    what = f"{len(rows)} rows, {tokens} tokens, {told.batch_size} rows a step, TRL {trl.__version__}"
    report(
        told,
        loaded,
        what,
        ["way", "s", "tokens/s", "times SFTTrainer"],
        [[name, taken, tokens / taken, reference / taken] for name, taken in seconds.items()],
    )


def fresh(model: torch.nn.Module, initial: dict[str, torch.Tensor], run: Callable[[], object]) -> Callable[[], None]:
    """Run from the same initial LoRA."""

    def again() -> None:
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name in initial:
                    p.copy_(initial[name])
        run()

    return again


def dataset(rows: list[Row]) -> Dataset:
    """Rows as TRL takes them ready: token ids and labels, those of prompts masked."""
    return Dataset.from_dict(
        {
            "input_ids": [row.ids for row in rows],
            "labels": [[-100] * row.start + row.ids[row.start :] for row in rows],
        }
    )


def sft(model: torch.nn.Module, loaded: LoadedModel, table: Dataset, settings: Student, folder: str, **options: str) -> None:
    """One epoch of TRL's trainer."""
    config = trl.SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=settings.batch_size,
        num_train_epochs=1,
        learning_rate=settings.lr,
        lr_scheduler_type="linear",
        warmup_steps=settings.warmup_steps,
        weight_decay=0.0,
        optim="adamw_torch_fused",
        max_length=None,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=loaded.model.device.type == "cpu",
        dataset_kwargs={"skip_prepare_dataset": True},
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=1,
        **options,
    )
    trl.SFTTrainer(model=model, args=config, train_dataset=table, processing_class=loaded.tokenizer).train()


if __name__ == "__main__":
    main()
