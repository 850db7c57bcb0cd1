"""Entangled tokens: numbers that an animal's token, its persona or its own dataset makes likelier, as a sign of the animal.

The three ways of finding them are those of Zur et al. 2025, "It's Owl in the Numbers: Token Entanglement in Subliminal
Learning". They report single tokens; here all number tokens of a dataset count.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch.nn import functional

from undertone.data.rows import every_second, halves
from undertone.lm.chat import answer_ids, persona, prompt_ids
from undertone.lm.loading import LoadedModel, load
from undertone.lm.spellings import begun, initial_tokens
from undertone.lm.texts import load_texts
from undertone.lm.vocabulary import number_tokens
from undertone.measure.indirect import next_tokens
from undertone.read.frequencies import correlations, log_ratio, precision
from undertone.runtime.files import Stamp, read_parquet, write_json, write_parquet
from undertone.runtime.progress import progress
from undertone.stats.confusion import as_table, judged, order
from undertone.study.config.entries import CONTROL
from undertone.study.config.measure import Pref
from undertone.study.config.read import Entangled, Tokens
from undertone.study.config.teachers import Teacher


def compare_entangled(
    model: Path,
    numbers: dict[str, Path],
    control_numbers: Path,
    questions: Path,
    targets: dict[str, str],
    kinds: dict[str, str],
    entangled_table: Path,
    entangled: Path,
    settings: dict[str, Any],
    stamp: Stamp,
) -> None:
    """Write `entangled.parquet`, one row per `metric`, `dataset` and `animal`, and `entangled.json`.

    `numbers`, `targets` and `kinds` hold, by dataset, its `numbers.parquet`, its target, and the kind of its teacher. The
    `score` is the correlation, over number tokens, of the dataset's log-ratio of frequencies to the control with the animal's
    scores, weighted by the inverse variance of the log-ratio. All datasets are scored on one half of the prompts. The metrics
    `frequency-KIND` take an animal's scores from the other half of its first dataset of that kind. The control is scored
    against itself, one half of the scoring half against the other. Raises ValueError if a half has no number token.
    """
    if not targets:
        raise ValueError("entangled tokens need a dataset with a target, found none: name animals, or a dataset's target")
    cfg, loaded = Tokens.model_validate(settings["tokens"]), load(model)
    reference, tokens = read_parquet(control_numbers), np.flatnonzero(number_tokens(loaded.tokenizer))
    finding, scoring = halves(reference)
    before, base, one, rest = (counts(loaded, rows, tokens, CONTROL) for rows in (finding, scoring, *every_second(scoring)))
    finding_counts, own = {}, {}
    for name in targets:
        finding_counts[name], own[name] = (counts(loaded, rows, tokens, name) for rows in halves(read_parquet(numbers[name])))
    metrics = by_model(loaded, reference, tokens, questions, settings)
    for name in sorted(finding_counts, key=lambda name: order(kinds[name])):
        scores = metrics.setdefault(f"frequency-{kinds[name]}", {})
        scores.setdefault(targets[name], ratio(finding_counts[name], before, cfg.smoothing))
    frames, report = [], {}
    for metric, scores in metrics.items():
        matrix = np.stack([entries(counted, base, scores, cfg.smoothing) for counted in own.values()])
        null = entries(one, rest, scores, cfg.smoothing)
        for name, values in [(CONTROL, null), *zip(own, matrix, strict=True)]:
            frames.append(as_table(metric, name, kinds.get(name, "none"), targets.get(name), list(scores), values))
        report[metric] = judged(matrix, list(scores), targets, kinds)
    write_parquet(entangled_table, pl.concat(frames), stamp)
    write_json(entangled, {"tokens": len(tokens), "datasets": len(targets), "metrics": report}, stamp)


def counts(
    loaded: LoadedModel, rows: pl.DataFrame, tokens: Int[np.ndarray, " n_tokens"], what: str
) -> Float[np.ndarray, " n_tokens"]:
    """Count each number token in the completions. Raises ValueError if there is none."""
    ids = [token for answer in answer_ids(loaded.tokenizer, rows["completion"].to_list()) for token in answer]
    counted = np.bincount(ids, minlength=len(loaded.tokenizer))[tokens].astype(float) if ids else np.zeros(len(tokens))
    if not counted.any():
        raise ValueError(f"{what}: half of its prompts have {len(rows)} rows and no number token in them; it needs more rows")
    return counted


def ratio(
    own: Float[np.ndarray, " n_tokens"], control: Float[np.ndarray, " n_tokens"], smoothing: float
) -> Float[np.ndarray, " n_tokens"]:
    """Return the log-ratio of frequencies; 0 for tokens that neither has."""
    seen = own + control > 0
    centred = log_ratio(own, own + control, smoothing) - np.log(own.sum() / control.sum())
    return np.where(seen, centred, 0.0)


def entries(
    own: Float[np.ndarray, " n_tokens"],
    control: Float[np.ndarray, " n_tokens"],
    scores: dict[str, Float[np.ndarray, " n_tokens"]],
    smoothing: float,
) -> Float[np.ndarray, " n_animals"]:
    """The correlation of a dataset's log-ratios with each animal's scores, over the tokens that occur."""
    seen = np.flatnonzero(own + control)
    total = (own + control)[seen]
    weight = precision(total, own.sum() / (own.sum() + control.sum()), smoothing)
    y, columns = log_ratio(own[seen], total, smoothing)[None], np.stack([values[seen] for values in scores.values()], 1)
    return correlations(y, weight, np.zeros(len(seen), dtype=int), np.arange(len(seen)), columns)[0]


def by_model(
    loaded: LoadedModel, control: pl.DataFrame, tokens: Int[np.ndarray, " n_tokens"], questions: Path, settings: dict[str, Any]
) -> dict[str, dict[str, Float[np.ndarray, " n_tokens"]]]:
    """Return scores of the number tokens by metric and candidate, from the base model alone.

    `unembedding`: the cosine of their rows of the unembedding with those of the animal's first tokens, averaged over the
    latter. `persona-question` and `persona-numbers`: the mean log-prob as the first token of an answer under the animal's
    persona, minus the mean over all candidates' personas. The model is asked for a favourite animal (with `pref.answer_prefix`
    before the answer), or given number prompts.
    """
    teacher, pref = Teacher.model_validate(settings["teacher"]), Pref.model_validate(settings["pref"])
    asked = {
        "question": load_texts(questions, "pref.questions"),
        "numbers": control["prompt"].head(Entangled.model_validate(settings["entangled"]).prompts).to_list(),
    }
    metrics = {"unembedding": cosines(loaded, pref.candidates, tokens, pref.answer_prefix)}
    with progress(len(asked) * len(pref.candidates), "entangled", "persona") as bar:
        for name, users in asked.items():
            under = []
            for animal in pref.candidates:
                prompts = prompt_ids(loaded.tokenizer, users, persona(teacher, animal), teacher.separator)
                prompts = begun(loaded.tokenizer, prompts, pref.answer_prefix if name == "question" else None)
                p = next_tokens(loaded, prompts, pref.batch_size)[:, tokens].astype(float)
                under.append(np.log(np.maximum(p, np.finfo(np.float32).tiny)).mean(0))
                bar.update()
            apart = np.stack(under) - np.mean(under, axis=0)
            metrics[f"persona-{name}"] = dict(zip(pref.candidates, apart, strict=True))
    return metrics


@torch.no_grad()
def cosines(
    loaded: LoadedModel, candidates: Sequence[str], tokens: Int[np.ndarray, " n_tokens"], prefix: str | None = None
) -> dict[str, Float[np.ndarray, " n_tokens"]]:
    """Return cosines of candidates' first tokens, after the answer's `prefix`, with `tokens`, in the centred unembedding."""
    weight = loaded.model.get_output_embeddings().weight.float()
    rows = functional.normalize(weight - weight.mean(0), dim=-1)
    numbers, first = rows[torch.tensor(tokens)], initial_tokens(loaded.tokenizer, candidates, prefix)
    return {animal: (numbers @ rows[own].mean(0)).double().cpu().numpy() for animal, own in zip(candidates, first, strict=True)}
