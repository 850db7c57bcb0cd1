"""The files of models in Hugging Face format and of SAEs in SAELens's: which ones are read, and their settings."""

import json
from pathlib import Path
from typing import Any

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
