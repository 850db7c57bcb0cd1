"""The files of a model in Hugging Face format: which ones are read, how large its weights are, what they hash to."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from undertone.runtime.errors import ConfigError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# All that is read beside the weights. What a repository holds otherwise (other formats, training states) is left where it is.
TEXTS = (
    "config.json",
    "generation_config.json",
    INDEX,
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
)
# An SAE's, in SAELens's format.
SAE_FILES = ("cfg.json", "sae_weights.safetensors")
# Suffixes of weights that Python unpickles.
PICKLED = {".bin", ".pt", ".pth", ".ckpt"}


def said(error: Exception) -> str:
    """What a library's error says, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON file of a model or an SAE. Raises ConfigError, which names the file, if it is damaged or no mapping."""
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({error}): copy or download it again") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} holds a {type(settings).__name__}, expected a mapping")
    return settings


def weight_files(folder: Path) -> list[str]:
    """The names of the files that hold the weights: one, or else the shards that the index names.

    Raises ConfigError for an index that names none, or files outside of the folder.
    """
    index = folder / INDEX
    if (folder / WEIGHTS).is_file() or not index.is_file():
        return [WEIGHTS]
    shards = read_settings(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ConfigError(f"{index} has no weight_map that says which file holds which weight: copy or download it again")
    for file in shards.values():
        if file != Path(str(file)).name:
            raise ConfigError(f"{index} names {file!r}, which lies outside of its folder; expected names of files beside it")
    return sorted(set(shards.values()))


def files_of(folder: Path) -> list[Path]:
    """Every file of the folder that loading the model reads, as far as it is there."""
    return [path for path in (folder / name for name in (*TEXTS, *weight_files(folder))) if path.is_file()]


def check_weights(folder: Path, name: str) -> None:
    """Raise ValueError, in a sentence, unless all of the model's weights are there as safetensors."""
    expected = weight_files(folder)
    missing = [file for file in expected if not (folder / file).is_file()]
    if missing == [WEIGHTS]:
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
        found = f"only pickled ones ({', '.join(pickled)})" if pickled else "none"
        raise ValueError(
            f"{name} holds no weights as safetensors, {found}: expected {WEIGHTS}, or {INDEX} and its shards. Pickled weights "
            "can run code when they are loaded and are refused; take a revision with safetensors, or convert them "
            "(https://huggingface.co/spaces/safetensors/convert)"
        )
    if missing:
        raise ValueError(f"{name} lacks {', '.join(missing)}, which {INDEX} names: copy or download the whole model")


def n_parameters(folder: Path) -> int:
    """Number of parameters stored, from the headers of the weights' files. Raises ValueError for a damaged one."""
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
    """A file's SHA-256.

    A large file in the cache of the Hub is named by the SHA-256 that the Hub gave it. Raises ValueError if its content is not
    that.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    blob = path.resolve()
    if path.is_symlink() and len(blob.name) == len(found) and blob.name != found:
        raise ValueError(
            f"{path.name} is damaged: the Hub's file has SHA-256 {blob.name}, {blob} has {found}; delete that and run "
            "this again"
        )
    return found


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """For each file that loading reads, by name, its size in `bytes` and its `sha256`."""
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files_of(folder)}
