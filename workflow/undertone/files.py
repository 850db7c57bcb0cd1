"""Artifacts on disk: written whole or not at all, each carrying the stamp and the versions that made it."""

import json
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

Stamp = dict[str, Any]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; renamed to `path` when the block ends well, removed when it fails."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
