"""Text documents, read a few at a time from the user's files or from datasets of the Hub."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from undertone.runtime.errors import ConfigError
from undertone.runtime.failures import said
from undertone.study.config.saes import TextSource
from undertone.study.validation import nearest

# Characters of a running text read at a time.
PIECE = 2**20
# Rows of a table read at a time.
ROWS = 256
# UTF-16 surrogates, which are not characters by themselves.
NO_TEXT = re.compile("[\ud800-\udfff]")
# Pairs of a document's place in its source, for error messages, and the document.
Documents = Iterator[tuple[str, Any]]


def documents(source: TextSource) -> Iterator[str]:
    """Yield the documents of a file or of a Hub dataset, without empty ones.

    Raises ConfigError, naming the source and the row at fault, if the source cannot be read, lacks the column, or has a
    document that is not text.
    """
    try:
        for where, text in READERS[Path(source.file).suffix](Path(source.file), source.column) if source.file else hub(source):
            if text is not None and not isinstance(text, str):
                raise ConfigError(f"{where}: {source.column!r} is {str(text)[:40]}, expected text")
            if text and (odd := NO_TEXT.search(text)):
                raise ConfigError(f"{where}: {odd[0]!r} is no character of a text; remove it")
            if text and text.strip():
                yield text
    except ConfigError as error:
        raise ConfigError(f"{source.title}: {error}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{source.title}: cannot be read ({said(error)})") from None


def running(path: Path, column: str) -> Documents:
    """Yield one running text in pieces that end at a line end."""
    with path.open(encoding="utf-8-sig") as file:
        while lines := file.readlines(PIECE):
            yield "", "".join(lines)


def json_lines(path: Path, column: str) -> Documents:
    """Yield a column of a file with one JSON object per line."""
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"line {number} is no JSON ({error}); expected one whole object per line") from None
            if not isinstance(row, dict):
                raise ConfigError(f"line {number} is {str(row)[:40]}, expected an object with the key {column!r}")
            yield f"line {number}", cell(row, column, f"line {number}")


def parquet(path: Path, column: str) -> Documents:
    """Yield a column of a Parquet table."""
    from pyarrow.parquet import ParquetFile  # no other source needs it

    file = ParquetFile(path)
    cell(dict.fromkeys(file.schema_arrow.names), column, "the table")
    number = 0
    for batch in file.iter_batches(ROWS, columns=[column]):
        for text in batch.column(0).to_pylist():
            yield f"row {number}", text
            number += 1


def hub(source: TextSource) -> Documents:
    """Yield a column of a Hub dataset at one commit, streamed so that no more is loaded than is read.

    Offline, the dataset is read from the cache. No code of the repository is run.
    """
    import datasets  # no other source needs it, and it loads much
    from huggingface_hub import constants

    from undertone.lm.hub import DATA_FILES, cached

    name, commit = str(source.hub), str(source.revision)
    try:
        if constants.HF_HUB_OFFLINE:
            at: dict[str, Any] = {"path": str(cached(name, commit, DATA_FILES, kind="dataset"))}
        else:
            at = {"path": name, "revision": commit}
        table = datasets.load_dataset(**at, name=source.subset, split=source.split, streaming=True)
        for number, row in enumerate(table):
            yield f"row {number}", cell(row, source.column, f"row {number}")
    except ConfigError:
        raise
    except Exception as error:  # any library may read the files
        raise ConfigError(f"cannot be read as subset {source.subset!r}, split {source.split!r} ({said(error)})") from None


def cell(row: dict[str, Any], column: str, where: str) -> Any:
    """Return a row's document. Raises ConfigError, with the nearest columns, if the row has no such column."""
    if column not in row:
        raise ConfigError(f"{where} has no column {column!r}{nearest(column, row)}; set column")
    return row[column]


READERS: dict[str, Callable[[Path, str], Documents]] = {".txt": running, ".jsonl": json_lines, ".parquet": parquet}
