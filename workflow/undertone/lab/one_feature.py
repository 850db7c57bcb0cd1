"""One feature of an SAE that is asked for by its number."""

import polars as pl

from undertone.runtime.errors import ConfigError


def one_feature(table: pl.DataFrame, number: int, asked: str) -> pl.DataFrame:
    """The row of a feature in `features.parquet`. Raises ConfigError, which names the file `asked` for, without such a one."""
    if number >= len(table):
        raise ConfigError(f"{asked}: the SAE has no feature {number}; ask for one from 0 to {len(table) - 1}")
    return table.filter(pl.col("feature") == number)
