"""The table of contexts of token ids that features are read on; neither the model nor the SAE was trained on it."""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, read_parquet, write_parquet

# Fewer tokens of text say nothing about features that fire on one in a thousand.
LEAST = 1_000
# If contexts repeat each other, a feature's examples are one and the same.
MOST_REPEATED = 0.5


def write_contexts(path: Path, contexts: Iterable[list[int]], special: set[int], tokens: int, stamp: Stamp) -> str:
    """Write contexts that hold `tokens` tokens of text, or all there are; return a message for the log.

    The table has the columns `row` and `ids`. Tokens in `special` are not text. Raises ConfigError if there are fewer than
    1,000 tokens of text, or more than half of the contexts repeat an earlier one.
    """
    rows: list[list[int]] = []
    n = 0
    for ids in contexts:
        rows.append(list(ids))
        n += sum(token not in special for token in ids)
        if n >= tokens:
            break
    if n < LEAST:
        raise ConfigError(f"{path}: {n:,} tokens of text, expected {LEAST:,} or more; give more text to read features on")
    repeated = 1 - len({tuple(row) for row in rows}) / len(rows)
    if repeated > MOST_REPEATED:
        raise ConfigError(
            f"{path}: {repeated:.0%} of the {len(rows):,} contexts repeat another one, expected at most {MOST_REPEATED:.0%}; "
            "give text that says more"
        )
    ids_column = pl.Series(rows, dtype=pl.List(pl.Int32))
    write_parquet(path, pl.DataFrame({"row": pl.Series(range(len(rows)), dtype=pl.Int64), "ids": ids_column}), stamp)
    return f"{n:,} tokens of text in {len(rows):,} contexts, of which {repeated:.1%} repeat another one"


def read_contexts(path: Path) -> list[list[int]]:
    """Return the token ids of each context."""
    return read_parquet(path)["ids"].to_list()
