"""One feature of an SAE, requested by its number."""

import polars as pl

from undertone.runtime.errors import ConfigError


def one_feature(table: pl.DataFrame, number: int, asked: str) -> pl.DataFrame:
    """Return a feature's row in `features.parquet`. Raises ConfigError, naming the file `asked` for, if there is none."""
    if number >= len(table):
        raise ConfigError(f"{asked}: the SAE has no feature {number}; ask for one from 0 to {len(table) - 1}")
    return table.filter(pl.col("feature") == number)
