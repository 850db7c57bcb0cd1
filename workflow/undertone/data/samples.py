"""The teacher's completions: one per number prompt, under its intervention."""

from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl
import torch

from undertone.lm.chat import answer_texts, prompt_ids
from undertone.lm.grammar import Automaton, automaton
from undertone.lm.loading import LoadedModel, load
from undertone.lm.sampling import Completion, Prefix, Sampler, batches_by_length, sample_batch
from undertone.lm.vocabulary import allowed_tokens
from undertone.runtime.files import Stamp, read_parquet, remove, replacing, write_parquet
from undertone.runtime.progress import progress
from undertone.study.config.data import Numbers, Samples
from undertone.teachers.teaching import teaching


def sample_numbers(
    model: Path,
    prompts: Path,
    teacher: Path | None,
    sae: Path | None,
    samples: Path,
    settings: dict[str, Any],
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Sample the teacher's completions into a table with the columns of `prompts` and `text`, `ids`, `ended`.

    `teacher` is the `teacher.json` of a steered or finetuned teacher, `sae` the `sae.json` that a clamped one needs. `ended` is
    `stop`, `length`, or `not allowed`: a row ends at the first token that no filter accepts. Constrained samples also have
    `log_mass`, the log of the probability that the constraint left at each token, summed over the row (nats). Finished batches
    are kept in `scratch`, from which an interrupted sampling continues.
    """
    cfg, table = Samples.model_validate(settings["samples"]), read_parquet(prompts)
    with teaching(load(model), settings, teacher, sae) as prompted:
        tokens = prompt_ids(prompted.loaded.tokenizer, table["prompt"].to_list(), prompted.system, prompted.separator)
        filter = Numbers.model_validate(settings.get("constraint", {}).get("numbers", {}))
        parts = sample_parts(prompted.loaded, tokens, cfg, filter, scratch, f"samples {samples.parent.name}")
    write_parquet(samples, table.join(pl.concat(parts), on="row", validate="1:1", maintain_order="left"), stamp)
    remove(scratch)


def sample_parts(
    loaded: LoadedModel, tokens: list[list[int]], settings: Samples, filter: Numbers, scratch: Path, what: str
) -> list[pl.DataFrame]:
    """Sample batch by batch; a batch that is already in `scratch` is read instead.

    Constrained samples are limited to what `filter` lets pass.
    """
    vocab = len(loaded.tokenizer)
    allowed = torch.tensor(allowed_tokens(loaded.tokenizer, vocab))
    allowed = torch.nn.functional.pad(allowed, (0, loaded.model.get_output_embeddings().weight.shape[0] - vocab))
    sampler = Sampler(
        settings.temperature,
        settings.max_new_tokens,
        loaded.stop_ids,
        loaded.pad_id,
        settings.seed,
        allowed.to(loaded.model.device),
        grammar_of(loaded, settings, filter),
    )
    prefix, parts = Prefix(loaded.model, tokens, settings.max_new_tokens), []
    batch_size = loaded.batch_size("samples.batch_size", settings.batch_size)
    with progress(len(tokens), what, "row") as bar:
        for number, rows in enumerate(batches_by_length(tokens, settings.batch_size)):
            path = scratch / f"{number:06}.parquet"
            if not path.exists():
                sampled = batch_size.parts(lambda part: sample_batch(loaded.model, tokens, part, sampler, prefix), rows)
                with replacing(path) as temporary:
                    as_table(loaded, rows, list(chain(*sampled))).write_parquet(temporary)
            parts.append(read_parquet(path))
            bar.update(len(rows))
    return parts


def grammar_of(loaded: LoadedModel, settings: Samples, filter: Numbers) -> Automaton | None:
    """Return the automaton of constrained samples, on the model's device; None if sampling is free.

    Raises ConfigError, with a one-sentence message, if nothing that the filter lets pass can be written in
    `settings.max_new_tokens`.
    """
    if not settings.constrained:
        return None
    return automaton(loaded.tokenizer, loaded.stop_ids, filter, settings.max_new_tokens).to(loaded.model.device)


def as_table(loaded: LoadedModel, rows: list[int], completions: list[Completion]) -> pl.DataFrame:
    """Return sampled rows as a table."""
    ids = [completion.ids for completion in completions]
    masses = [completion.log_mass for completion in completions if completion.log_mass is not None]
    table = pl.DataFrame(
        {
            "row": rows,
            "text": answer_texts(loaded.tokenizer, ids),
            "ids": ids,
            "ended": [completion.ended for completion in completions],
        },
        schema={"row": pl.Int64, "text": pl.String, "ids": pl.List(pl.Int32), "ended": pl.String},
    )
    return table.with_columns(log_mass=pl.Series(masses, dtype=pl.Float64)) if masses else table
