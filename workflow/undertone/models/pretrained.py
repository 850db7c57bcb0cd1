"""A base model that the study names: downloaded, or a local one; checked before any weight is loaded, and recorded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from undertone.lm.chat import training_rows
from undertone.lm.checkpoint import check_weights, manifest, n_parameters, said
from undertone.lm.hub import cached
from undertone.lm.loading import read_model, read_tokenizer
from undertone.lm.tensors import check_finite, stored
from undertone.models import quantized, template
from undertone.models.precision import cpu_precision
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, move, remove, write_json
from undertone.study.config.models import Model
from undertone.study.formats import TEXTS, WEIGHTS, read_settings, weight_files

# Any of these defines a tokenizer, the last one with merges.txt. Without one, transformers would make up an empty tokenizer.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")

# Files that transformers would ignore if they are damaged, or fail on without naming them.
SETTINGS = ("config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json")


def make_pretrained(model: Path, files: Sequence[Path], settings: Model, stamp: Stamp, scratch: Path) -> str:
    """Write `model.json`, from which every later stage loads the model without network; return the lines for the log.

    A Hub model is downloaded into the Hub's cache, texts first, so that the weights of a refused model are not downloaded. A
    GGUF file is unpacked to `files`, beside `model.json`; for any other model `files` is empty. Raises ValueError, with a
    one-sentence message, for a model that is not available, is no chat model, or might run code.
    """
    name, source = settings.title, source_of(settings)
    origin = quantized.fetch(settings, scratch) if source == "gguf" else None
    if origin:
        folder = quantized.unpack(origin.file, scratch / "model", name)
    else:
        folder = Path(name) if source == "folder" else cached(name, str(settings.revision), TEXTS, download=True)
    architecture = check_config(folder, name)
    tokenizer = read_tokenizer(folder, name)
    prompts = template.inspect(tokenizer, name)
    if source == "hub":
        cached(name, str(settings.revision), (*TEXTS, *weight_files(folder)), download=True)
    check_weights(folder, name)
    size = {"parameters": n_parameters(folder), **sizes(folder)}
    check_vocabulary(tokenizer, size["vocab_size"], name)
    read_model(folder, torch.float32, device_map="meta")  # loads names and shapes only
    for file in weight_files(folder):
        check_finite(stored(folder / file), folder / file)
    for target in files:
        move(folder / target.name, target)
    record = {
        "source": source,
        "name": name,
        "revision": settings.revision if source == "hub" else None,
        **({"gguf": origin.record} if origin else {}),
        "dtype": settings.dtype,
        "cpu": cpu_precision(size["d_model"]),
        "architecture": architecture,
        **size,
        "files": manifest(model.parent if files else folder),
        "template": prompts,
    }
    write_json(model, record, stamp)
    remove(scratch)
    return described(record)


def source_of(settings: Model) -> str:
    """Return where a named model is: a `gguf` file, a `folder`, or the `hub`."""
    return "gguf" if settings.gguf else "folder" if Path(str(settings.name)).is_dir() else "hub"


def check_config(folder: Path, name: str) -> str:
    """Return the architecture that `config.json` names.

    Raises ValueError unless transformers has it as a causal language model.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{name} has no config.json: expected a model in Hugging Face format (config.json, tokenizer.json, {WEIGHTS})"
        )
    if not any((folder / file).is_file() for file in TOKENIZERS):
        raise ValueError(f"{name} has no tokenizer: expected {', or '.join(TOKENIZERS)} with merges.txt")
    configs = {file: read_settings(folder / file) for file in SETTINGS if (folder / file).is_file()}
    for file in ("config.json", "tokenizer_config.json"):
        if "auto_map" in configs.get(file, {}):
            raise ValueError(
                f"{name} asks to run code of its own (auto_map in {file}), which undertone never does: take a revision, or "
                "make a local copy, that uses the classes of transformers"
            )
    kind = configs["config.json"].get("model_type")
    if kind not in CONFIG_MAPPING:
        raise ValueError(
            f"{name} is of model_type {kind!r}, which this version of transformers does not know: update transformers, or take "
            "another model; code from the repository is never run"
        )
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind, ())
    expected = [causal] if isinstance(causal, str) else list(causal)
    architecture = (configs["config.json"].get("architectures") or expected or [kind])[0]
    if architecture not in expected:
        such = " or ".join(expected) or "such as GemmaForCausalLM"
        raise ValueError(f"{name} is a {architecture}, expected a causal language model ({such})")
    return str(architecture)


def sizes(folder: Path) -> dict[str, int]:
    """Return the number of layers, the width of the residual stream and the vocabulary size.

    Raises ConfigError if one of them is impossible.
    """
    config = folder / "config.json"
    try:
        text = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True).get_text_config()
    except Exception as error:
        raise ConfigError(f"{config} is no config that transformers can read ({said(error)})") from None
    widths = {key: getattr(text, key) for key in ("num_hidden_layers", "hidden_size", "vocab_size")}
    for key, value in widths.items():
        if value < 1:
            raise ConfigError(f"{config}: {key} is {value}, expected at least 1")
    return dict(zip(("n_layers", "d_model", "vocab_size"), widths.values(), strict=True))


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, vocab_size: int, name: str) -> None:
    """Raise ConfigError if a chat has tokens that the model lacks."""
    highest = max(training_rows(tokenizer, [template.USER], [template.COMPLETION])[0].ids)
    if highest >= vocab_size:
        raise ConfigError(
            f"the tokenizer of {name} gives a chat the token {highest} ({tokenizer.convert_ids_to_tokens(highest)!r}), and its "
            f"config.json says vocab_size {vocab_size}: they are not of one model"
        )


def described(record: dict[str, Any]) -> str:
    """Return the record as lines for a log."""
    kinds = {"hub": f"commit {record['revision']}", "folder": "a local folder", "gguf": "unpacked from GGUF to float32"}
    origin = kinds[record["source"]]
    total = sum(file["bytes"] for file in record["files"].values())
    size = f"{record['parameters']:,} parameters, {record['n_layers']} layers of width {record['d_model']}"
    files = f"{len(record['files'])} files, {total / 1e9:.2f} GB"
    cpu = (
        f"on a CPU, dtype auto is {record['cpu']['dtype']}: a product in bfloat16 was {record['cpu']['speedup']} times as fast"
    )
    model = f"{record['name']}, {origin}: {record['architecture']}, {size}; {files}"
    return f"{model}\n{cpu}\n{template.described(record['template'])}"
