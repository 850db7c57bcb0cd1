"""Load a study's model: safetensors only, no remote code, no network, precision and device chosen once."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from jaxtyping import Bool, Int
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from undertone.lm.chat import Row, end_of_turn, special_ids
from undertone.lm.checkpoint import n_parameters, said
from undertone.lm.hooks import decoder_layers
from undertone.lm.hub import cached
from undertone.lm.tensors import check_finite
from undertone.lm.training import collate
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import read_json
from undertone.runtime.memory import BatchSize
from undertone.study.formats import read_settings

# A model is loaded only if its weights plus this share fit in memory. Its computations then use what is left.
MEMORY_MARGIN = 0.2

SAFE_LOADING: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
# The settings of config.json that the weights also show.
SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size")

Result = TypeVar("Result")


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for use, its tokenizer, the ids that end an answer, and the batch sizes that fit in memory."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stop_ids: list[int]
    pad_id: int
    batch_sizes: dict[tuple[str, int], BatchSize] = field(default_factory=dict, compare=False)

    def batch_size(self, name: str, rows: int) -> BatchSize:
        """Return the batch size of the setting `name`, which says `rows`. All students of this model share it."""
        return self.batch_sizes.setdefault((name, rows), BatchSize(rows, name))

    def read(self, work: Callable[[dict[str, torch.Tensor]], Result], rows: Sequence[Row], at_once: int) -> Iterator[Result]:
        """Yield `work(batch)` for consecutive `collate`d batches of the rows, each of `at_once` rows or as many as fit."""
        batch_size = self.batch_size("rows read together", at_once)
        return batch_size.parts(lambda part: work(collate(part, self.pad_id, self.model.device)), rows)

    @cached_property
    def special(self) -> Int[torch.Tensor, " n_special"]:
        """The ids of the special tokens, cached: listing thousands of added tokens takes milliseconds."""
        return torch.tensor(sorted(special_ids(self.tokenizer)), device=self.model.device)

    def is_text(self, ids: Int[torch.Tensor, "*shape"]) -> Bool[torch.Tensor, "*shape"]:
        """Mark the `ids` that are not special tokens. An SAE describes special tokens badly, so they keep their residuals."""
        return ~torch.isin(ids, self.special.to(ids.device))

    def text_mask(self, batch: dict[str, Int[torch.Tensor, "n_rows n_tokens"]]) -> Bool[torch.Tensor, "n_rows n_tokens"]:
        """Mark the tokens of a batch that are neither padding nor special."""
        return batch["attention_mask"].bool() & self.is_text(batch["input_ids"])


def load(model_json: Path) -> LoadedModel:
    """Load the base model that `results/model/model.json` names, frozen, in eval mode, on the GPU if there is one.

    `model_json` holds `source`, `name` (a Hub name or a folder), `revision` and `dtype`; the embedded model is beside it.
    Raises ValueError with a one-sentence message: before loading, if the files are not those recorded or memory is too small;
    after loading, if weights are missing or not finite.
    """
    folder = folder_of(model_json)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Compute SAEs, biases and LoRAs in true float32: TF32 would keep 10 bits of each number.
    torch.set_float32_matmul_precision("highest")
    dtype = dtype_of(read_json(model_json), device)
    check_memory(n_parameters(folder) * dtype.itemsize, device, f"the model in {folder} ({dtype})")
    tokenizer = read_tokenizer(folder, str(folder))
    model = read_model(folder, dtype)
    model = model.to(device).requires_grad_(False).eval()
    check_finite(model.named_parameters(), folder)
    if device == "cpu" and dtype != torch.float32:
        model.get_output_embeddings().register_forward_pre_hook(_contiguous)
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops] if stops is not None else []
    stop_ids = sorted(
        {*stops, end_of_turn(tokenizer)[-1], *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])}
    )
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop_ids[0]
    return LoadedModel(model, tokenizer, stop_ids, pad_id)


def _contiguous(head: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    # A batch's last tokens are not contiguous in memory: in bfloat16, PyTorch would copy all weights for each of them.
    return (args[0].contiguous(), *args[1:])


def read_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder. Raises ConfigError if transformers cannot read it."""
    try:
        return AutoTokenizer.from_pretrained(folder, **SAFE_LOADING)
    except Exception as error:
        raise ConfigError(
            f"the tokenizer of {name} cannot be read ({said(error)}): copy or download "
            "tokenizer.json and tokenizer_config.json again"
        ) from None


def read_model(folder: Path, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    """Load the model of a folder, on the CPU unless the options say otherwise.

    Raises ConfigError if transformers cannot build it from its config.json, or if its weights are not those that config.json
    describes.
    """
    config = folder / "config.json"
    read_settings(config)
    options |= {"dtype": dtype, "use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        model, info = AutoModelForCausalLM.from_pretrained(folder, **SAFE_LOADING, **options)
    except Exception as error:
        raise ConfigError(f"{config} describes no model that transformers can load ({said(error)})") from None
    check_keys(model, info, folder)
    return model


def check_keys(model: PreTrainedModel, info: dict[str, Any], folder: Path) -> None:
    """Raise ConfigError if, by transformers' loading info, a folder's weights do not match its config.json.

    Unused weights outside the decoder's layers, such as those of a vision tower, are accepted.
    """
    config = folder / "config.json"
    for name, shape, expected in sorted(info["mismatched_keys"]):
        raise ConfigError(
            f"{folder}: {name} has shape {list(shape)}, and the model that {config} describes has {list(expected)} there "
            f"({described(model)}): config and weights are not of one model"
        )
    if missing := sorted(info["missing_keys"]):
        raise ConfigError(
            f"{folder} lacks {len(missing)} of the model's weights, such as {missing[0]}: its files are incomplete, or "
            f"{config} is another model's ({described(model)})"
        )
    layers = next(name for name, module in model.named_modules() if module is decoder_layers(model))
    inside = (f"{layers}.", f"{layers.partition('.')[2]}.")
    if odd := sorted(name for name in info["unexpected_keys"] if name.startswith(inside)):
        raise ConfigError(
            f"{folder} holds {len(odd)} weights of layers, such as {odd[0]}, that the model does not have which {config} "
            f"describes ({described(model)}): config and weights are not of one model"
        )


def described(model: PreTrainedModel) -> str:
    """Return the sizes in a model's config as text."""
    text = model.config.get_text_config()
    return ", ".join(f"{key} {getattr(text, key)}" for key in SIZES if hasattr(text, key))


def folder_of(model_json: Path) -> Path:
    """Return the folder with the files of the model that `model.json` names, without using the network.

    Raises ValueError if a file is missing, or if its size is not the one recorded.
    """
    record = read_json(model_json)
    files = record.get("files", {})
    if record["source"] == "hub":
        folder = cached(record["name"], record["revision"], list(files))
    else:
        folder = Path(record["name"]) if record["source"] == "folder" else Path(model_json).parent
    for name, file in files.items():
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != file["bytes"]:
            raise ValueError(
                f"{folder / name} has {size or 'no'} bytes, {model_json} recorded {file['bytes']}: delete that record and run "
                "snakemake again, if the model was changed on purpose"
            )
    return folder


def dtype_of(record: dict[str, Any], device: str) -> torch.dtype:
    """Return the precision that a record asks for on this device.

    On a CPU, `auto` is the precision that was faster when the model was checked.
    """
    automatic = "bfloat16" if device == "cuda" else record.get("cpu", {}).get("dtype", "float32")
    dtype: torch.dtype = getattr(torch, automatic if record["dtype"] == "auto" else record["dtype"])
    return dtype


def check_memory(weights: int, device: str, what: str) -> None:
    """Raise ValueError, with a one-sentence message, if `weights` bytes and the margin exceed the device's free memory."""
    needed, free = (1 + MEMORY_MARGIN) * weights, free_memory(device)
    if needed > free:
        kind, remedy = {
            "cuda": ("GPU", "a larger GPU (gpu_model in profiles/slurm/profile.yaml), or free this one"),
            "cpu": ("main", "more memory (mem_mb of the rule), or take a smaller model"),
        }[device]
        raise ValueError(
            f"{what} needs {needed / 1e9:.1f} GB of {kind} memory, its weights and {MEMORY_MARGIN:.0%} more, and "
            f"{free / 1e9:.1f} GB are free: ask for {remedy}"
        )


def free_memory(device: str) -> float:
    """Return the bytes that this process can still use on the device; on a CPU under Slurm, at most what the job asked for."""
    if device == "cuda":
        # Memory that PyTorch holds for reuse is free to it, though the driver counts it as used.
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    asked = float(os.environ.get("SLURM_MEM_PER_NODE", "inf")) * 2**20
    return min(psutil.virtual_memory().available, asked)
