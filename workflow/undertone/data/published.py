"""A dataset of the Hugging Face Hub, as a table in the study."""

from pathlib import Path
from typing import Any

import datasets

from undertone.lm.checkpoint import said
from undertone.lm.hub import DATA_FILES, cached
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, remove, write_parquet
from undertone.study.validation import nearest


def fetch_rows(rows: Path, settings: dict[str, Any], stamp: Stamp, scratch: Path) -> str:
    """Write the prompts and completions of a dataset of the Hub, under their own columns' names; returns a line for the log.

    Its files are downloaded into the Hub's cache at the commit that the study pins, or found there without network. No code of
    the repository is run. Raises ValueError, in a sentence, if they cannot be had or do not hold the split or a column.
    """
    entry = settings["dataset"]
    where = f"{entry['hub']} at {entry['revision']}"
    folder = cached(entry["hub"], entry["revision"], DATA_FILES, download=True, kind="dataset")
    table = read_split(folder, entry["subset"], entry["split"], where, scratch)
    columns = [entry["prompt"], entry["completion"]]
    for column in columns:
        if column not in table.column_names:
            raise ConfigError(
                f"{where} has no column {column!r}{nearest(column, table.column_names)}; set prompt and completion"
            )
    write_parquet(rows, table.select_columns(columns).to_polars(), stamp)
    remove(scratch)  # where `datasets` has kept a copy
    return f"{where}: {len(table):,} rows of {entry['split']}"


def read_split(folder: Path, subset: str | None, split: str, where: str, scratch: Path) -> datasets.Dataset:
    """A split of the dataset in a folder. Raises ConfigError, with those that it has, if it is not there or cannot be read."""
    try:
        return datasets.load_dataset(str(folder), subset, split=split, cache_dir=str(scratch))
    except Exception as error:
        raise ConfigError(f"{where} cannot be read as subset {subset!r}, split {split!r} ({said(error)})") from None
