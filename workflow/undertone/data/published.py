"""Datasets of the Hugging Face Hub, as tables in the study."""

from pathlib import Path
from typing import Any

import datasets

from undertone.lm.checkpoint import said
from undertone.lm.hub import DATA_FILES, cached
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, remove, write_parquet
from undertone.study.validation import nearest


def fetch_rows(rows: Path, settings: dict[str, Any], stamp: Stamp, scratch: Path) -> str:
    """Write the prompts and completions of a Hub dataset, under its own column names; return a line for the log.

    Its files are downloaded into the Hub's cache at the commit that the study pins, or read there without network. No code of
    the repository is run. Raises ValueError, with a one-sentence message, if the files are not available or lack the split or a
    column.
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
    remove(scratch)  # `datasets` has kept a copy there
    return f"{where}: {len(table):,} rows of {entry['split']}"


def read_split(folder: Path, subset: str | None, split: str, where: str, scratch: Path) -> datasets.Dataset:
    """Load a split of the dataset in a folder.

    Raises ConfigError if the split does not exist, naming those that do, or if it cannot be read.
    """
    try:
        return datasets.load_dataset(str(folder), subset, split=split, cache_dir=str(scratch))
    except Exception as error:
        raise ConfigError(f"{where} cannot be read as subset {subset!r}, split {split!r} ({said(error)})") from None
