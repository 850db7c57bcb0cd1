"""Training a student: undertone's loop (rows bucketed by length, logits only at labels) and a plain one, on the same rows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from peft.tuners import lora
from timing import ROOT, interleaved, matmul_rate, parameters, parser, report, start
from torch.nn.functional import cross_entropy

from undertone.data.prompts import number_prompts
from undertone.lm.chat import Row, training_rows
from undertone.lm.loading import LoadedModel
from undertone.lm.lora import HalfLinear
from undertone.lm.training import collate, train
from undertone.models.wordings import load_template
from undertone.students.student import new_student, recipe
from undertone.study.config.data import Prompts
from undertone.study.config.students import Student


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=2048, help="rows trained on, once a round")
    options.add_argument("--batch-size", type=int, default=64, help="rows per optimizer step")
    told = options.parse_args()
    loaded = start(told)
    rows = number_rows(loaded, told.rows)
    settings = Student(epochs=1, batch_size=told.batch_size, micro_batch_size=told.batch_size)
    body, head = parameters(loaded)
    rate = matmul_rate(loaded)
    model = new_student(loaded, settings, seed=1)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)

    def ours() -> None:
        train(model, rows, recipe(settings, 1), loaded.pad_id, Path("never"), checkpoint_seconds=1e9)

    ways: dict[str, Callable[[], None]] = {
        "plain loop, full logits": lambda: pefts_own(model, lambda: plain(model, rows, told.batch_size, loaded.pad_id)),
        "undertone": ours,
    }
    if any(isinstance(module, HalfLinear) for module in model.modules()):
        ways["… with PEFT's own LoRA"] = lambda: pefts_own(model, ours)
    seconds = interleaved(ways, told.rounds)
    tokens = sum(len(row.ids) for row in rows)
    labels = sum(len(row.ids) - row.start for row in rows)
    per_pass = body * tokens + head * labels
    seconds["floor: 6 FLOPs a parameter and token"] = (6 * per_pass + 6 * trained * tokens) / rate
    seconds["floor: 4, as base weights have no gradient"] = (4 * per_pass + 6 * trained * tokens) / rate
    reference = seconds["plain loop, full logits"]
    table = [[name, taken, tokens / taken, reference / taken] for name, taken in seconds.items()]
    what = f"{len(rows)} rows, {tokens} tokens of which {labels} carry the loss, {told.batch_size} rows a step"
    report(told, loaded, what, ["way", "s", "tokens/s", "times plain"], table)


def number_rows(loaded: LoadedModel, n: int) -> list[Row]:
    """Number prompts, each with three to ten random integers as its completion."""
    users = number_prompts(load_template(ROOT / "config/prompts/numbers.yaml"), Prompts(n=n))["prompt"].to_list()
    rng = np.random.default_rng(0)
    completions = [", ".join(map(str, rng.integers(0, 1000, rng.integers(3, 11)))) for _ in range(n)]
    return training_rows(loaded.tokenizer, users, completions, Student().max_length)


def pefts_own(model: torch.nn.Module, run: Callable[[], None]) -> None:
    """Run with the LoRA as PEFT computes it."""
    half = [module for module in model.modules() if isinstance(module, HalfLinear)]
    for module in half:
        module.__class__ = lora.Linear
    run()
    for module in half:
        module.__class__ = HalfLinear


def plain(model: torch.nn.Module, rows: list[Row], batch_size: int, pad_id: int) -> None:
    """One epoch in the order of the rows: every batch padded to its longest row, the loss on the full logits."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=Student().lr, weight_decay=0.0, fused=True)
    model.train()
    for i in range(0, len(rows), batch_size):
        batch = collate(rows[i : i + batch_size], pad_id, weights[0].device)
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()


if __name__ == "__main__":
    main()
