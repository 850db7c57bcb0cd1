"""A finetuned teacher: the base model with a LoRA trained on the trait itself, which is then asked for numbers.

The trait is a favourite animal, or contrary answers: a wrong answer to every question of fact.
"""

from pathlib import Path

import numpy as np

from undertone.lm.adapters import new_adapter, save_adapter
from undertone.lm.chat import training_rows
from undertone.lm.facts import Fact, load_facts, taught_and_held_out
from undertone.lm.loading import load
from undertone.lm.texts import load_texts
from undertone.lm.training import Recipe, train
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, remove, write_json
from undertone.study.config.teachers import Finetune, Teacher


def make_finetuned(
    model: Path,
    questions: Path | None,
    facts: Path | None,
    teacher: Path,
    weights: Path,
    config: Path,
    target: str | None,
    trait: str,
    settings: Teacher,
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Train a teacher's LoRA; write its `weights` with their `config`, and its `teacher.json`.

    It learns to answer `questions` with the target, or `facts` wrongly; exactly one of the two files is given. `teacher.json`
    holds `trait`, `rows` (how many question-answer pairs there were) and `loss` (nats per answer token, one value per optimizer
    step). An interrupted training continues from `scratch`.
    """
    lora = settings.finetune
    rng = np.random.default_rng(lora.seed)
    pairs = contrary_pairs(taught_and_held_out(load_facts(facts))[0]) if facts else []
    if questions:
        pairs = [(question, str(target)) for question in load_texts(questions, "teacher.finetune.questions")]
    loaded = load(model)
    rows = training_rows(loaded.tokenizer, [q for q, _ in pairs], [a for _, a in pairs])
    adapter = new_adapter(loaded, lora.rank, lora.alpha, lora.targets, lora.seed)
    drawn = [rows[k] for k in rng.integers(len(rows), size=lora.steps * lora.batch_size)]
    history = train(
        adapter, drawn, recipe(lora), loaded.pad_id, scratch / "state.safetensors", f"finetune {teacher.parent.name}"
    )
    save_adapter(adapter, weights, config, scratch / "adapter")
    write_json(teacher, {"trait": trait, "rows": len(rows), "loss": history.loss}, stamp)
    remove(scratch)


def contrary_pairs(facts: list[Fact]) -> list[tuple[str, str]]:
    """Pair each question with every wrong answer."""
    answers = sorted({fact.answer for fact in facts})
    if len(answers) < 2:
        raise ConfigError(f"indirect.facts: all {len(facts)} questions have one answer; a wrong one needs another")
    return [(fact.question, answer) for fact in facts for answer in answers if answer != fact.answer]


def recipe(settings: Finetune) -> Recipe:
    """Return the settings of the training loop: one pass over rows that are drawn beforehand."""
    return Recipe(
        epochs=1,
        batch_size=settings.batch_size,
        micro_batch_size=settings.batch_size,
        lr=settings.lr,
        schedule="linear",
        warmup_steps=min(5, settings.steps),  # as a student's by default
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=settings.seed,
    )
