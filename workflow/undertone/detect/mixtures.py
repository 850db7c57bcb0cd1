"""Smaller parts of a dataset, and mixtures of its rows with base samples, to measure how much of it detection needs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from undertone.runtime.files import Stamp, read_parquet, write_parquet
from undertone.study.config.detect import Power


def mix_dataset(own: Path, nulls: Path, mixtures: Path, settings: Power, most_rows: int, stamp: Stamp) -> None:
    """Write `mixtures/DATASET/matched.parquet`, with the columns of `own`: a `set` for each number of rows and for each share.

    `own` holds a dataset's pairs, of which at most `most_rows` count as the whole dataset. `nulls` holds pairs of base samples,
    in sets. The order of rows and the null dataset differ between datasets even with the same seed.
    """
    name = mixtures.parent.name
    rng = np.random.default_rng([settings.seed, *name.encode()])
    pairs = read_parquet(own).drop("set")
    if pairs.is_empty():
        raise ValueError(f"no row of {name} has a base sample beside it: take it out of power.datasets")
    sets = mixed(pairs, largest_null(read_parquet(nulls), rng), settings, most_rows, rng)
    write_parquet(mixtures, pl.concat([rows.select(pl.lit(each).alias("set"), pl.all()) for each, rows in sets]), stamp)


def largest_null(nulls: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Return the pairs of a random set among the sets with the most rows."""
    sizes = nulls.group_by("set", maintain_order=True).len()
    largest = sizes.filter(pl.col("len") == pl.col("len").max())["set"].sort().to_list()
    return nulls.filter(set=largest[rng.integers(len(largest))]).drop("set")


def mixed(
    own: pl.DataFrame, null: pl.DataFrame, settings: Power, most_rows: int, rng: np.random.Generator
) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield (name, pairs) of each set, named `ROWS-SHARE`: first rows of the shuffled dataset, then mixtures with a null.

    A number of rows is left out unless the dataset has more. The dataset's rows in a smaller share are the first of those in a
    larger share. Null pairs in a mixture have none of the prompts of its other rows. Raises ValueError if the null dataset is
    too small.
    """
    shuffled = own[rng.permutation(len(own))]
    n = min(len(own), most_rows)
    yield from ((f"{rows}-1", shuffled.head(rows)) for rows in settings.rows if rows < n)
    for share in settings.shares:
        part = shuffled.head(round(share * n))
        others = null.filter(~pl.col("prompt").is_in(part["prompt"].to_list()))
        if len(others) < (needed := n - len(part)):
            raise ValueError(
                f"a share of {share:g} of {n} rows needs {needed} null pairs of other prompts, and there are {len(others)}: "
                "add a greater number to nulls.rows, or take the share out of power.shares"
            )
        others = others[rng.permutation(len(others))].head(needed)
        yield f"{n}-{share:g}", pl.concat([part, others], how="vertical_relaxed")[rng.permutation(n)]
