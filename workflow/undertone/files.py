"""Artifacts on disk: written whole or not at all, each carrying the stamp and the versions that made it."""

import glob
import json
import os
import platform
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import psutil

Stamp = dict[str, Any]


# A temporary file that nobody has written to for a day is left over, whoever wrote it.
ABANDONED_AFTER = 24 * 3600.0


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; renamed to `path` when the block ends well, removed when it fails.

    Its name is this process's own: of two that write the same file at once, each writes a whole one. It is on the disk before
    it is renamed, so that a crash of the machine leaves no empty file under the final name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{socket.gethostname()}.partial")
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
        with suppress(OSError):  # not every file system flushes folders
            flush(path.parent)
        remove(*leftovers(path))
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have a file's content, or a folder's list of names, written to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def leftovers(path: Path) -> Iterator[Path]:
    """Temporary files of `path` whose process was killed, which only the machine that it ran on can tell at once."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        process, _, host = temporary.name[len(path.name) + 2 : -len(".partial")].partition("-")
        with suppress(FileNotFoundError):
            here, age = host == socket.gethostname(), time.time() - temporary.stat().st_mtime
            if not psutil.pid_exists(int(process)) if here and process.isdigit() else age > ABANDONED_AFTER:
                yield temporary


def provenance(stamp: Stamp) -> dict[str, Any]:
    """The stamp and the versions of what computed the result."""
    packages = ("torch", "transformers", "peft", "polars")
    return {
        "stamp": stamp,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def write_json(path: Path, result: dict[str, Any], stamp: Stamp) -> None:
    """Write a small result with its provenance."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({**result, **provenance(stamp)}, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a small result."""
    return json.loads(Path(path).read_text())


def write_parquet(path: Path, table: pl.DataFrame, stamp: Stamp) -> None:
    """Write a table with its provenance in the file's metadata."""
    with replacing(path) as temporary:
        table.write_parquet(temporary, metadata={"undertone": json.dumps(provenance(stamp))})


def remove(*paths: Path) -> None:
    """Remove files and folders that a finished stage no longer needs."""
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
