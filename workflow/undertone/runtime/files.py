"""Artifacts on disk: written whole or not at all, each with the stamp and the versions that made it."""

import glob
import hashlib
import json
import math
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
from polars.exceptions import PolarsError
from safetensors import SafetensorError

from undertone.runtime.errors import ConfigError

Stamp = dict[str, Any]


# A temporary file that was not written to for a day counts as left over, whoever wrote it.
ABANDONED_AFTER = 24 * 3600.0
# The remedy for a result that was changed since it was written: every result can be made again.
REMEDY = "delete it and run again"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`. It is renamed to `path` when the block succeeds, and removed when it fails.

    The temporary name is unique to this process: if two processes write the same file at once, each writes a whole one. The
    file is flushed to disk before it is renamed, so a crash of the machine leaves no empty file under the final name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{socket.gethostname()}.partial")
    try:
        yield temporary
        temporary.chmod(0o666 & ~umask())  # safetensors makes files that only their owner can read
        flush(temporary)
        temporary.replace(path)
        with suppress(OSError):  # not every file system flushes folders
            flush(path.parent)
        remove(*leftovers(path))
    finally:
        temporary.unlink(missing_ok=True)


def umask() -> int:
    """Return the permissions that new files must not have."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def move(source: Path, target: Path) -> None:
    """Move a finished file, also between file systems, so that the target is there whole or not at all."""
    with replacing(target) as temporary:
        shutil.move(source, temporary)


def flush(path: Path) -> None:
    """Flush a file's content, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def leftovers(path: Path) -> Iterator[Path]:
    """Yield temporary files of `path` whose process was killed; only the machine that it ran on can tell this at once."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        process, _, host = temporary.name[len(path.name) + 2 : -len(".partial")].partition("-")
        with suppress(FileNotFoundError):
            here, age = host == socket.gethostname(), time.time() - temporary.stat().st_mtime
            if not psutil.pid_exists(int(process)) if here and process.isdigit() else age > ABANDONED_AFTER:
                yield temporary


def provenance(stamp: Stamp) -> dict[str, Any]:
    """Return the stamp and the versions of the software that computed the result."""
    packages = ("torch", "transformers", "peft", "polars")
    return {
        "stamp": stamp,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def write_json(path: Path, result: dict[str, Any], stamp: Stamp) -> None:
    """Write a small result with its provenance and, last, a checksum of both.

    Raises ConfigError, which names the number, if one is NaN or infinite.
    """
    result = {**result, **provenance(stamp)}
    if odd := next(not_finite(result), None):
        raise ConfigError(
            f"{path}: {odd} is NaN or infinite, which is no result; what it was computed from is damaged or overflows"
        )
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({**result, "checksum": checksum(result)}, indent=1, allow_nan=False) + "\n")


def not_finite(value: Any, name: str = "") -> Iterator[str]:
    """Yield the dotted names of the numbers inside a result that are NaN or infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        yield name
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, part in parts:
        yield from not_finite(part, f"{name}.{key}" if name else str(key))


def checksum(result: dict[str, Any]) -> str:
    """Return a result's checksum, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(result).encode()).hexdigest()[:16]


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Turn errors of reading `path` within the `with` block into a ConfigError that says that the file is damaged."""
    try:
        yield
    except (ValueError, PolarsError, SafetensorError) as error:
        raise ConfigError(f"{path} is damaged: {error}; {REMEDY}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a small result. Raises ConfigError, which names the file, if it is damaged or was edited."""
    with whole(path):
        result: dict[str, Any] = json.loads(Path(path).read_text())
    if result.pop("checksum", None) not in (None, checksum(result)):
        raise ConfigError(f"{path} was edited after it was written: its checksum is that of other content; {REMEDY}")
    return result


def write_parquet(path: Path, table: pl.DataFrame, stamp: Stamp) -> None:
    """Write a table with its provenance in the file's metadata."""
    with replacing(path) as temporary:
        table.write_parquet(temporary, metadata={"undertone": json.dumps(provenance(stamp))})


def read_parquet(path: Path) -> pl.DataFrame:
    """Read a table. Raises ConfigError, which names the file, if it is damaged."""
    with whole(path):
        return pl.read_parquet(path, glob=False)


def remove(*paths: Path) -> None:
    """Remove files and folders that a finished stage no longer needs."""
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
