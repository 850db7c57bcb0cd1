"""Null datasets, in which nothing is hidden, with base samples for their prompts: what detectors say of them is chance."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import polars as pl

from undertone.data.prompts import number_prompts
from undertone.detect.matched import completions, match
from undertone.lm.loading import LoadedModel, load
from undertone.models.wordings import load_template
from undertone.runtime.files import Stamp, read_parquet, remove, write_parquet
from undertone.runtime.progress import progress
from undertone.study.config.bounds import MAX_SEED
from undertone.study.config.data import Numbers, Prompts, Samples
from undertone.study.config.detect import Matched, Nulls
from undertone.study.config.teachers import Teacher


class Null(NamedTuple):
    """How a null dataset is made: its system prompt, its temperature, and whether its prompts are the study's."""

    system: str | None = None
    temperature: float = 1.0
    own_prompts: bool = False


def sample_nulls(
    model: Path,
    template: Path,
    nulls: Path,
    settings: Nulls,
    matched: Matched,
    prompts: Prompts,
    samples: Samples,
    numbers: Numbers,
    teacher: Teacher,
    stamp: Stamp,
    scratch: Path,
) -> None:
    """Write `nulls/KIND/matched.parquet`: `settings.n` null datasets of one kind, at each number of rows.

    Columns: `set`, `row`, `prompt`, `completion`, `matched`. Finished datasets are kept in `scratch`, from which an interrupted
    run continues.
    """
    loaded, texts, kind = load(model), load_template(template), nulls.parent.name
    tables = []
    with progress(settings.n, f"nulls {kind}", "dataset") as bar:
        for k in range(settings.n):
            path, place = scratch / f"{k:05}.parquet", scratch / f"{k:05}"
            if not path.exists():
                seed, null = settings.seed + settings.n * [*MAKERS].index(kind) + k, MAKERS[kind](settings, k)
                asked = prompts.model_copy(update={"seed": seed}) if null.own_prompts else prompts
                pool = number_prompts(texts, asked).sample(fraction=1.0, shuffle=True, seed=seed)
                sampling = samples.model_copy(update={"seed": seed, "temperature": null.temperature})
                n = with_spares(max(settings.rows))
                rows = dataset(loaded, pool, n, sampling, numbers, null.system, teacher.separator, place)
                other = matched.model_copy(update={"seed": matched.seed + matched.rounds * (seed + 1)})
                pairs = match(loaded, rows, other, samples, numbers, place / "matched", f"base samples {k}")
                write_parquet(path, pairs, stamp)
                remove(place)
            pairs = read_parquet(path)
            sizes = [n for n in settings.rows if n <= len(pairs)]
            tables += [pairs.head(n).select(pl.lit(f"{k:05}-{n}").alias("set"), pl.all()) for n in sizes]
            bar.update()
    if not tables:
        raise ValueError(
            f"no null dataset of the kind {kind} has {min(settings.rows)} rows that pass: raise prompts.n, or lower nulls.rows"
        )
    write_parquet(nulls, pl.concat(tables), stamp)
    remove(scratch)


def with_spares(n: int) -> int:
    """Return how many rows to sample so that `n` are left: for some prompts no completion of the base model passes."""
    return n + max(4, n // 20)


def dataset(
    loaded: LoadedModel,
    pool: pl.DataFrame,
    n: int,
    samples: Samples,
    numbers: Numbers,
    system: str | None,
    separator: str,
    scratch: Path,
) -> pl.DataFrame:
    """Sample `n` rows that pass the filter (`row`, `prompt`, `completion`), or all there are, for the pool's prompts in order.

    Prompts are taken in parts until enough pass. Each part has its own seed, because a row's draws depend on the seed and on
    its place in the part. With a single seed, rows of different parts would share their draws, and no test that assumes
    independent rows would hold.
    """
    parts: list[pl.DataFrame] = []
    for k, start in enumerate(range(0, len(pool), 2 * n)):
        if sum(map(len, parts)) >= n:
            break
        part = pool.slice(start, 2 * n).select("row", "prompt")
        own = samples.model_copy(update={"seed": samples.seed + k * MAX_SEED})  # which no other null's seed reaches
        texts = completions(loaded, part["prompt"].to_list(), system, separator, own, numbers, scratch / str(start), "null")
        parts.append(part.with_columns(completion=pl.Series(texts, dtype=pl.String)).drop_nulls())
    return pl.concat(parts).head(n)


def base(settings: Nulls, k: int) -> Null:
    """The base model, the study's own prompts."""
    return Null()


def other_prompts(settings: Nulls, k: int) -> Null:
    """The base model, other prompts of the same template."""
    return Null(own_prompts=True)


def other_sampling(settings: Nulls, k: int) -> Null:
    """The base model at another temperature."""
    return Null(temperature=settings.temperatures[k % len(settings.temperatures)])


def neutral(settings: Nulls, k: int) -> Null:
    """A system prompt that is about no candidate."""
    return Null(settings.neutral[k % len(settings.neutral)])


MAKERS: dict[str, Callable[[Nulls, int], Null]] = {
    "seeds": base,
    "prompts": other_prompts,
    "sampling": other_sampling,
    "neutral": neutral,
}
