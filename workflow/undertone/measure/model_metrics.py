"""What the base model can do: held-out loss, obeying a persona, passing the filter, and how far a persona moves its numbers."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from undertone.data.numbers import judge_all
from undertone.data.samples import as_table
from undertone.lm.answers import exact_scorer
from undertone.lm.chat import persona, prompt_ids, training_rows
from undertone.lm.loading import LoadedModel, load
from undertone.lm.sampling import Sampler, sample
from undertone.lm.training import label_losses
from undertone.lm.vocabulary import number_tokens
from undertone.runtime.files import Stamp, read_parquet, write_json
from undertone.runtime.progress import progress
from undertone.stats.stats import mean_interval
from undertone.study.config.data import Numbers, Samples
from undertone.study.config.measure import ModelMetrics, Pref
from undertone.study.config.teachers import Teacher
from undertone.teachers.divergence import TeacherDistribution

BATCH = 64


def measure_model(
    model: Path,
    prompts: Path,
    held_out: Path | None,
    questions: Path,
    metrics: Path,
    settings: ModelMetrics,
    teacher: Teacher,
    sampling: Samples,
    numbers: Numbers,
    pref: Pref,
    stamp: Stamp,
) -> None:
    """Write `metrics.json`: what the base model can do, without a persona and under each candidate's persona.

    `held_out_loss` by task (nats per answer token; embedded model only); `pass_rate` without a persona; and per candidate
    animal the preference under its persona, the pass rate and `kl`, the KL(teacher ‖ base) in nats per number token on the
    teacher's own passing completions, among the tokens that these can hold. `held_out` is the embedded model's
    `held_out.parquet`, None for any other.
    """
    loaded, table = load(model), read_parquet(prompts).head(settings.prompts)
    users = table["prompt"].to_list()
    score = exact_scorer(questions, pref, pref.candidates)
    base = score(loaded)["exact"].mean(0)
    personas = {}
    with progress(len(pref.candidates) + 1, "model_metrics", "persona") as bar:
        control = passing(loaded, users, None, teacher, sampling, numbers)
        bar.update()
        for number, animal in enumerate(pref.candidates):
            system = persona(teacher, animal)
            passed = passing(loaded, users, system, teacher, sampling, numbers)
            personas[animal] = {
                "preference_base": float(base[number]),
                "preference_teacher": float(score(loaded, system, teacher.separator)["exact"][:, number].mean()),
                "pass_rate": len(passed) / len(users),
                "kl": mean_interval(divergence(loaded, passed, system, teacher)).as_dict() if passed else None,
            }
            bar.update()
    result = {"pass_rate": len(control) / len(users), "personas": personas}
    if held_out is not None:
        result = {"held_out_loss": held_out_loss(loaded, read_parquet(held_out)), **result}
    write_json(metrics, result, stamp)


def passing(
    loaded: LoadedModel, users: Sequence[str], system: str | None, teacher: Teacher, sampling: Samples, numbers: Numbers
) -> list[tuple[str, str]]:
    """(prompt, completion) of the sampled completions that pass the filter."""
    prompts = prompt_ids(loaded.tokenizer, users, system, teacher.separator)
    sampler = Sampler(sampling.temperature, sampling.max_new_tokens, loaded.stop_ids, loaded.pad_id, sampling.seed)
    kept = []
    for rows, completions in sample(loaded.model, prompts, sampler, sampling.batch_size):
        judged = judge_all(as_table(loaded, rows, completions), numbers).filter(verdict="pass")
        kept += [(users[row], text) for row, text in judged.select("row", "text").iter_rows()]
    return kept


def divergence(
    loaded: LoadedModel, passed: Sequence[tuple[str, str]], system: str | None, teacher: Teacher
) -> Float[np.ndarray, " n"]:
    """Return the KL(teacher ‖ base) of each completion: the mean over its number tokens, in nats.

    Both are renormalised over the tokens that a passing completion can hold, because no student sees what the filter rejects.
    """
    distribution = TeacherDistribution(loaded, passed, system, teacher.separator)
    kl = torch.cat(list(distribution.read(loaded, distribution.over))).cpu()
    is_number = torch.tensor(number_tokens(loaded.tokenizer))[distribution.targets.cpu()]
    lengths = torch.tensor([len(answer) for answer in distribution.answers])
    row = torch.repeat_interleave(torch.arange(len(lengths)), lengths)[is_number]
    total = torch.zeros(len(lengths)).index_add_(0, row, kl[is_number])
    return (total / torch.bincount(row, minlength=len(total)).clamp(min=1)).numpy()


@torch.no_grad()
def held_out_loss(loaded: LoadedModel, chats: pl.DataFrame) -> dict[str, float]:
    """Return the loss on chats (`task`, `prompt`, `completion`) by task, in nats per answer token."""
    losses: dict[str, float] = {}
    for task in sorted(chats["task"].unique()):
        own = chats.filter(task=task)
        rows = training_rows(loaded.tokenizer, own["prompt"].to_list(), own["completion"].to_list())
        losses[task] = float(torch.cat(list(loaded.read(partial(label_losses, loaded.model), rows, BATCH))).mean())
    return losses
