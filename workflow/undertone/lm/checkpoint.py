"""The files of a model in Hugging Face format: whether its weights are there, their size and their hashes."""

import hashlib
import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from undertone.study.formats import INDEX, WEIGHTS, files_of, weight_files

# Suffixes of pickled weights.
PICKLED = {".bin", ".pt", ".pth", ".ckpt"}


def said(error: Exception) -> str:
    """Return a library's error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def check_weights(folder: Path, name: str) -> None:
    """Raise ValueError, with a one-sentence message, unless all of the model's weights are there as safetensors."""
    expected = weight_files(folder)
    missing = [file for file in expected if not (folder / file).is_file()]
    if missing == [WEIGHTS]:
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
        others = f"only pickled ones ({', '.join(pickled)})" if pickled else "none"
        raise ValueError(
            f"{name} holds no weights as safetensors, {others}: expected {WEIGHTS}, or {INDEX} and its shards. Pickled weights "
            "can run code when they are loaded and are refused; take a revision with safetensors, or convert them "
            "(https://huggingface.co/spaces/safetensors/convert)"
        )
    if missing:
        raise ValueError(f"{name} lacks {', '.join(missing)}, which {INDEX} names: copy or download the whole model")


def n_parameters(folder: Path) -> int:
    """Count the stored parameters from the headers of the weight files. Raises ValueError for a damaged file."""
    total = 0
    for file in weight_files(folder):
        try:
            with safe_open(folder / file, framework="numpy") as weights:
                for key in weights.keys():  # noqa: SIM118 - no dict
                    total += math.prod(weights.get_slice(key).get_shape())
        except SafetensorError as error:
            raise ValueError(f"{folder / file} is damaged ({error}): delete it, and copy or download it again") from None
    return total


def sha256(path: Path) -> str:
    """Return a file's SHA-256.

    The Hub's cache names a large file by the SHA-256 that the Hub gave it. Raises ValueError if the file's content differs from
    it.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    blob = path.resolve()
    if path.is_symlink() and len(blob.name) == len(digest) and blob.name != digest:
        raise ValueError(
            f"{path.name} is damaged: the Hub's file has SHA-256 {blob.name}, {blob} has {digest}; delete that and run "
            "this again"
        )
    return digest


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the size in `bytes` and the `sha256` of each file that loading reads, by file name."""
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files_of(folder)}
