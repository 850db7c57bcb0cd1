"""Sizes of a model and an SAE that are known before either is loaded, from settings or the files of a local folder."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undertone.runtime.errors import ConfigError
from undertone.study.config.models import Model
from undertone.study.config.saes import Sae
from undertone.study.formats import read_settings

# Facts about the embedded model, a Gemma.
EMBEDDED_POSITIONS = 512
EMBEDDED_MODULES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
EMBEDDED_SPECIAL = {"<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"}


@dataclass(frozen=True)
class ModelSize:
    """What a model's config says of its residual stream, and how many tokens it can read (None if it does not say)."""

    n_layers: int
    d_model: int
    positions: int | None


@dataclass(frozen=True)
class SaeSize:
    """Size and layer of an SAE; `d_in` is None if it will be trained to fit the model."""

    d_sae: int
    d_in: int | None
    layer: int


def model_size(model: Model) -> ModelSize | None:
    """The size of a model, or None if only its download would tell. Raises ConfigError for a broken config.json."""
    if not model.named:
        return ModelSize(model.embedded.n_layers, model.embedded.hidden_size, EMBEDDED_POSITIONS)
    file = Path(str(model.name)) / "config.json"
    if not file.is_file():
        return None
    settings = read_settings(file)
    settings = settings.get("text_config", settings)
    try:
        return ModelSize(settings["num_hidden_layers"], settings["hidden_size"], settings.get("max_position_embeddings"))
    except KeyError as error:
        raise ConfigError(f"{file} does not say {error.args[0]}: expected the config of a causal language model") from None


def sae_size(sae: Sae) -> SaeSize | None:
    """The size of an SAE, or None if only its download would tell. Raises ConfigError for a folder that holds no SAE."""
    if sae.release:
        return None
    if sae.folder is None:
        return SaeSize(sae.d_sae, None, sae.layer)
    file = Path(sae.folder) / "cfg.json"
    if not file.is_file():
        raise ConfigError(f"sae.folder {sae.folder}: no cfg.json there; expected a folder in SAELens's format")
    settings = read_settings(file)
    hook = re.search(r"blocks\.(\d+)\.", str(settings.get("metadata", {}).get("hook_name")))
    try:
        return SaeSize(settings["d_sae"], settings["d_in"], int(hook[1]) if hook else sae.layer)
    except KeyError as error:
        raise ConfigError(f"{file} does not say {error.args[0]}: expected an SAE's in SAELens's format") from None


def special_tokens(model: Model) -> set[str]:
    """The special tokens of a model's tokenizer; an empty set if only its download would tell."""
    if not model.named:
        return EMBEDDED_SPECIAL
    file = Path(str(model.name)) / "tokenizer.json"
    if not file.is_file():
        from huggingface_hub import try_to_load_from_cache  # only where it is needed

        local = model.gguf or Path(str(model.name)).is_dir()
        cached = None if local else try_to_load_from_cache(str(model.name), file.name, revision=model.revision)
        if not isinstance(cached, str):
            return set()
        file = Path(cached)
    added = read_settings(file).get("added_tokens")
    tokens = [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    return {str(token.get("content", "")) for token in tokens if token.get("special")}


def linear_modules(model: Model) -> set[str] | None:
    """The names of a model's modules with weights, or None if only its download would tell."""
    if not model.named:
        return EMBEDDED_MODULES
    folder = Path(str(model.name))
    if (index := folder / "model.safetensors.index.json").is_file():
        names = list(read_settings(index).get("weight_map", {}))
    elif (weights := folder / "model.safetensors").is_file():
        names = list(_header(weights))
    else:
        return None
    modules = {name.removesuffix(".weight").split(".")[-1] for name in names if name.endswith(".weight")}
    return modules | {"lm_head"} if modules else None  # lm_head has no weights of its own if they are tied


def _header(weights: Path) -> dict[str, Any]:
    """The header of a safetensors file, by name of tensor; empty if the file is damaged, which loading it reports."""
    try:
        with weights.open("rb") as file:
            return dict(json.loads(file.read(min(int.from_bytes(file.read(8), "little"), 10**8))))
    except (ValueError, OSError):
        return {}
