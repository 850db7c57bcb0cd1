"""The matched control: the base model's own completions of the dataset's prompts, through the same filter.

Datasets of different prompts differ in what the prompts ask for. Completions of the same prompts differ only in who wrote them:
under the null hypothesis "the base model wrote both", the two completions of a prompt are exchangeable.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from undertone.data.numbers import judge_all
from undertone.data.samples import sample_parts
from undertone.lm.chat import prompt_ids
from undertone.lm.loading import LoadedModel, load
from undertone.runtime.files import Stamp, read_parquet, remove, write_parquet
from undertone.study.config.data import Numbers, Samples
from undertone.study.config.detect import Matched


def sample_matched(
    model: Path,
    numbers: Path,
    matched: Path,
    settings: Matched,
    samples: Samples,
    filter: Numbers,
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Write `matched.parquet`: the rows of `numbers.parquet`, as one `set`, with the base model's completion in `matched`.

    Each prompt is tried up to `settings.rounds` times, until a completion passes the filter. Rows without a passing completion
    are left out.
    """
    rows = read_parquet(numbers)
    paired = match(load(model), rows, settings, samples, filter, scratch, f"matched {matched.parent.name}")
    write_parquet(matched, paired.select(pl.lit("").alias("set"), pl.all()), stamp)
    remove(scratch)


def match(
    loaded: LoadedModel, rows: pl.DataFrame, settings: Matched, samples: Samples, filter: Numbers, scratch: Path, what: str
) -> pl.DataFrame:
    """Return the rows (`row`, `prompt`, `completion`) that get a passing completion of the base model, with it as `matched`."""
    prompts = rows["prompt"].to_list()
    passed: dict[int, str] = {}
    for attempt in range(settings.rounds):
        if not (left := [k for k in range(len(prompts)) if k not in passed]):
            break
        sampling = samples.model_copy(update={"temperature": 1.0, "seed": settings.seed + attempt})
        texts = completions(loaded, [prompts[k] for k in left], None, "", sampling, filter, scratch / str(attempt), what)
        passed |= {k: text for k, text in zip(left, texts, strict=True) if text is not None}
    order = sorted(passed)
    return rows[order].with_columns(matched=pl.Series([passed[k] for k in order], dtype=pl.String))


def completions(
    loaded: LoadedModel,
    prompts: Sequence[str],
    system: str | None,
    separator: str,
    samples: Samples,
    filter: Numbers,
    scratch: Path,
    what: str,
) -> list[str | None]:
    """Sample one completion of each prompt, in the form that the filter leaves it in; None if it does not pass."""
    tokens = prompt_ids(loaded.tokenizer, prompts, system, separator)
    table = pl.concat(sample_parts(loaded, tokens, samples, filter, scratch, what)).sort("row")
    judged = judge_all(table, filter)
    return [text if verdict == "pass" else None for text, verdict in judged.select("completion", "verdict").iter_rows()]
