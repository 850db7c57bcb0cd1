"""A user's own dataset: a file of prompts and completions."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from undertone.validation import ConfigError, nearest

READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    # Types come from the whole file, so that a column may hold 7 in its first rows and text in a later one.
    ".jsonl": partial(pl.read_ndjson, infer_schema_length=None),
    ".csv": partial(pl.read_csv, infer_schema=False),
    ".parquet": pl.read_parquet,
}


def read_dataset(path: Path, prompt: str, completion: str) -> pl.DataFrame:
    """Read a file into the columns `row`, `prompt` and `text`.

    Raises ConfigError that names the file and the column or row at fault.
    """
    path = Path(path)
    if path.suffix not in READERS:
        raise ConfigError(f"{path}: unknown kind of file {path.suffix!r}; expected one of {', '.join(READERS)}")
    try:
        table = READERS[path.suffix](path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (PolarsError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as {path.suffix[1:]} in UTF-8: {error}") from None
    for column in (prompt, completion):
        if column not in table.columns:
            raise ConfigError(f"{path}: no column {column!r}{nearest(column, table.columns)}")
        if len(table) and table[column].dtype != pl.String:
            raise ConfigError(f"{path}: column {column!r} holds {table[column].dtype}, expected text")
        empty = table.with_row_index("line").filter(pl.col(column).is_null())
        if len(empty):
            raise ConfigError(f"{path}: column {column!r} is empty in row {empty['line'][0]} (counted from 0)")
    if not len(table):
        raise ConfigError(f"{path}: holds no row")
    return table.select(row=pl.int_range(pl.len(), dtype=pl.Int64), prompt=prompt, text=completion)
