"""Loading a study's model: safetensors only, no remote code, precision and device chosen once."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from undertone.chat import end_of_turn
from undertone.files import read_json
from undertone.memory import Portion

transformers.utils.logging.disable_progress_bar()


@dataclass(frozen=True)
class Loaded:
    """A model ready for use, its tokenizer, the ids at which an answer ends, and what is known of how much of it fits."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stop_ids: list[int]
    pad_id: int
    portions: dict[tuple[str, int], Portion] = field(default_factory=dict, compare=False)

    def portion(self, name: str, rows: int) -> Portion:
        """How many rows are run at once where the setting `name` says `rows`; all students of this model share it."""
        return self.portions.setdefault((name, rows), Portion(rows, name))


def load(record: Path) -> Loaded:
    """Load the base model that `results/model/model.json` names, frozen, in eval mode, on the GPU if there is one.

    `record` holds `source`, `name` (a Hub name or a folder), `revision` and `dtype`; the embedded model lies beside it.
    """
    told = read_json(record)
    source = Path(record).parent if told["source"] == "embedded" else told["name"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # What is float32 (SAEs, biases, LoRAs) is meant to be: TF32 would keep 10 bits of each number.
    torch.set_float32_matmul_precision("highest")
    dtype = {"auto": torch.bfloat16 if device == "cuda" else torch.float32}.get(told["dtype"]) or getattr(torch, told["dtype"])
    safely = {"revision": told["revision"], "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(source, **safely)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True, **safely)
    model = model.to(device).requires_grad_(False).eval()
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops] if stops is not None else []
    stop_ids = sorted(
        {*stops, end_of_turn(tokenizer)[-1], *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])}
    )
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop_ids[0]
    return Loaded(model, tokenizer, stop_ids, pad_id)
