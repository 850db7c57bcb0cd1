"""The version of a file's content."""

import functools
import hashlib
from pathlib import Path

from undertone.runtime.files import replacing

# Every job's process computes its stamp, so hashes of files of more bytes than this (a local model's weights) are kept on disk.
LARGE_FILE = 2**26
HASHES = Path("scratch/hashes")


def content_version(path: str) -> str:
    """A hash of a file's content, or `missing`."""
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return "missing"
    return _hash(path, status.st_mtime_ns, status.st_size)


@functools.cache
def _hash(path: str, mtime_ns: int, size: int) -> str:
    note = HASHES / hashlib.sha256(f"{Path(path).resolve()} {mtime_ns} {size}".encode()).hexdigest()[:16]
    if size > LARGE_FILE and note.is_file():
        return note.read_text()
    with Path(path).open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    if size > LARGE_FILE:
        with replacing(note) as temporary:
            temporary.write_text(content)
    return content
