"""A base model that the study names: fetched or found, checked before any weight is loaded, and recorded."""

import json
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from undertone import template
from undertone.checkpoint import TEXTS, WEIGHTS, check_weights, manifest, n_parameters, weight_files
from undertone.config import Model
from undertone.files import Stamp, write_json
from undertone.hub import cached

# Any of these makes a tokenizer, the last one with merges.txt; without one transformers would make an empty tokenizer up.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def make_pretrained(record: Path, settings: dict[str, Any], stamp: Stamp) -> str:
    """Write `model.json`, by which every later stage loads the model without network; returns what to say of it in the log.

    A Hub model is downloaded into the Hub's cache, texts first, so that one that is refused costs no download of its weights.
    Raises ValueError, in a sentence, for a model that cannot be had, is no chat model, or might run code.
    """
    told = Model.model_validate(settings)
    name, local = str(told.name), Path(str(told.name)).is_dir()
    folder = Path(name) if local else cached(name, str(told.revision), TEXTS, download=True)
    architecture = check_config(folder, name)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    prompts = template.inspect(tokenizer, name)
    if not local:
        cached(name, str(told.revision), (*TEXTS, *weight_files(folder)), download=True)
    check_weights(folder, name)
    found = {
        "source": "folder" if local else "hub",
        "name": name,
        "revision": None if local else told.revision,
        "dtype": told.dtype,
        "architecture": architecture,
        "parameters": n_parameters(folder),
        **sizes(folder),
        "files": manifest(folder),
        "template": prompts,
    }
    write_json(record, found, stamp)
    return described(found)


def check_config(folder: Path, name: str) -> str:
    """The architecture that `config.json` names. Raises ValueError unless transformers has it as a causal language model."""
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{name} has no config.json: expected a model in Hugging Face format (config.json, tokenizer.json, {WEIGHTS})"
        )
    if not any((folder / file).is_file() for file in TOKENIZERS):
        raise ValueError(f"{name} has no tokenizer: expected {', or '.join(TOKENIZERS)} with merges.txt")
    told = json.loads((folder / "config.json").read_text())
    for file in ("config.json", "tokenizer_config.json"):
        if (folder / file).is_file() and "auto_map" in json.loads((folder / file).read_text()):
            raise ValueError(
                f"{name} asks to run code of its own (auto_map in {file}), which undertone never does: take a revision, or "
                "make a local copy, that uses the classes of transformers"
            )
    kind = told.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise ValueError(
            f"{name} is of model_type {kind!r}, which this version of transformers does not know: update transformers, or take "
            "another model; code from the repository is never run"
        )
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind, ())
    expected = [causal] if isinstance(causal, str) else list(causal)
    architecture = (told.get("architectures") or expected or [kind])[0]
    if architecture not in expected:
        such = " or ".join(expected) or "such as GemmaForCausalLM"
        raise ValueError(f"{name} is a {architecture}, expected a causal language model ({such})")
    return str(architecture)


def sizes(folder: Path) -> dict[str, int]:
    """Layers, width of the residual stream and vocabulary."""
    text = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True).get_text_config()
    return {"n_layers": text.num_hidden_layers, "d_model": text.hidden_size, "vocab_size": text.vocab_size}


def described(found: dict[str, Any]) -> str:
    """The record as lines for a log."""
    place = f"commit {found['revision']}" if found["revision"] else "a local folder"
    total = sum(file["bytes"] for file in found["files"].values())
    size = f"{found['parameters']:,} parameters, {found['n_layers']} layers of width {found['d_model']}"
    files = f"{len(found['files'])} files, {total / 1e9:.2f} GB"
    return f"{found['name']}, {place}: {found['architecture']}, {size}; {files}\n{template.described(found['template'])}"
