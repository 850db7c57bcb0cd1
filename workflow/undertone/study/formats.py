"""Files of models in Hugging Face format and of SAEs in SAELens's format: which are read, and what settings they hold."""

import json
from pathlib import Path
from typing import Any

from undertone.runtime.errors import ConfigError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# The files that are read besides the weights. Anything else in a repository (other formats, training states) is left alone.
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
# The files of an SAE in SAELens's format.
SAE_FILES = ("cfg.json", "sae_weights.safetensors")


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
    """The names of the files that hold the weights: a single file if there is one, otherwise the shards in the index.

    Raises ConfigError for an index that names no shards, or shards outside of the folder.
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
    """Every existing file of the folder that is read when the model is loaded."""
    return [path for path in (folder / name for name in (*TEXTS, *weight_files(folder))) if path.is_file()]
