"""A user's own dataset: a file of prompts and completions."""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PolarsError

from undertone.runtime.errors import ConfigError
from undertone.study.validation import nearest

# Each row: where it stands, for error messages, and its cells.
Rows = Iterator[tuple[str, Sequence[Any]]]
# A NUL, which ends a text for some libraries, and halves of UTF-16 pairs, which are not characters.
NO_TEXT = re.compile("[\0\ud800-\udfff]")


def read_dataset(path: Path, prompt: str, completion: str) -> pl.DataFrame:
    """Read a file into the columns `row`, `prompt` and `text`.

    Raises ConfigError that names the file and the column or line at fault.
    """
    path, columns = Path(path), (prompt, completion)
    if path.suffix not in READERS:
        raise ConfigError(f"{path}: unknown kind of file {path.suffix!r}; expected one of {', '.join(READERS)}")
    if not path.is_file():
        raise ConfigError(f"{path}: {'is a folder or a pipe, expected a file' if path.exists() else 'no such file'}")
    try:
        rows = [checked(where, cells, columns) for where, cells in READERS[path.suffix](path, columns)]
    except (ConfigError, OSError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if not rows:
        raise ConfigError(f"{path}: holds no row")
    table = pl.DataFrame(rows, schema={"prompt": pl.String, "text": pl.String}, orient="row")
    return table.select(pl.int_range(pl.len(), dtype=pl.Int64).alias("row"), "prompt", "text")


def checked(where: str, cells: Sequence[Any], columns: Sequence[str]) -> Sequence[str]:
    """Return a row's prompt and completion. Raises ConfigError unless both are text and the prompt is not empty."""
    for column, cell in zip(columns, cells, strict=True):
        if cell is None or (column == columns[0] and not str(cell).strip()):
            raise ConfigError(f"{where}: {column!r} is empty; fill it in, or leave the row out")
        if not isinstance(cell, str):
            raise ConfigError(f"{where}: {column!r} is {str(cell)[:40]}, expected text")
        if odd := NO_TEXT.search(cell):
            raise ConfigError(f"{where}: {column!r} holds {odd[0]!r}, which is no character of a text; remove it")
    return cells


def jsonl_rows(path: Path, columns: Sequence[str]) -> Rows:
    """Yield the rows of a file with one JSON object per line."""
    # Only "\n" ends a line: a JSON text may hold the other separators that Python knows.
    for number, line in enumerate(text_of(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=tuple)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"line {number} is no JSON ({error}); expected one whole object per line: {EXAMPLE}") from None
        if not isinstance(row, tuple):
            raise ConfigError(f"line {number} is {str(row)[:40]}, expected an object: {EXAMPLE}")
        check_columns(f"line {number}", columns, [key for key, _ in row])
        yield f"line {number}", [dict(row)[column] for column in columns]


EXAMPLE = '{"prompt": "…", "completion": "…"}'


def csv_rows(path: Path, columns: Sequence[str]) -> Rows:
    """Yield the rows of a comma-separated file whose first line names the columns. An empty field counts as missing."""
    csv.field_size_limit(2**31 - 1)  # Python's own limit is 128 kB
    header: list[str] = []
    for line, record in records(csv.reader(io.StringIO(text_of(path), newline=""), strict=True)):
        if not header:
            header = record
            check_columns(f"line {line}", columns, header)
        elif len(record) != len(header):
            raise ConfigError(f"line {line} has {len(record)} fields, the header {len(header)}; {QUOTES}")
        else:
            yield f"line {line}", [record[header.index(column)] or None for column in columns]


def records(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield the records of a csv reader that are not empty, each with the line at which it begins."""
    line = 1
    try:
        for record in reader:
            if record:
                yield line, record
            line = reader.line_num + 1
    except csv.Error as error:
        raise ConfigError(f"line {line}: {error}; {QUOTES}") from None


QUOTES = "a text with a comma, a quote or a line break must stand in quotes, and a quote within it is written twice"


def parquet_rows(path: Path, columns: Sequence[str]) -> Rows:
    """Yield the rows of a parquet file."""
    try:
        table = pl.read_parquet(path, glob=False)
    except PolarsError as error:
        raise ConfigError(f"cannot be read as parquet: {error}") from None
    check_columns("the table", columns, table.columns)
    for column in columns:
        if len(table) and table[column].dtype != pl.String:
            raise ConfigError(f"column {column!r} holds {table[column].dtype}, expected text")
    for number, cells in enumerate(table.select(columns).iter_rows()):
        yield f"row {number} (counted from 0)", cells


READERS: dict[str, Callable[[Path, Sequence[str]], Rows]] = {".jsonl": jsonl_rows, ".csv": csv_rows, ".parquet": parquet_rows}


def check_columns(where: str, columns: Sequence[str], known: Sequence[str]) -> None:
    """Raise ConfigError unless each column exists exactly once."""
    for column in columns:
        if column not in known:
            raise ConfigError(f"{where} has no column {column!r}{nearest(column, known)}")
        if known.count(column) > 1:
            raise ConfigError(f"{where} names the column {column!r} twice; rename or remove one of them")


def text_of(path: Path) -> str:
    """Return a file's text without its byte order mark.

    Raises ConfigError, which names the line at fault where there is one, if the file is not plain text in UTF-8.
    """
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError("is in UTF-16; save it in UTF-8")
    if content.startswith(b"\x1f\x8b"):
        raise ConfigError("is compressed with gzip; unpack it")
    try:
        text = content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8; save the file in UTF-8") from None
    before, nul, _ = text.partition("\0")
    if nul:
        raise ConfigError(f"line {before.count(chr(10)) + 1} holds a NUL byte; save the file as plain text in UTF-8")
    return text
