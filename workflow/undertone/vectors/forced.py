"""Runs with and without steering on the same tokens: the base model's own greedy continuations."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from undertone.lm.chat import Row, prompt_ids
from undertone.lm.hooks import rewritten
from undertone.lm.loading import LoadedModel
from undertone.lm.sampling import Sampler, sample
from undertone.lm.steering import Steering
from undertone.lm.texts import load_texts
from undertone.lm.training import collate, label_logits
from undertone.runtime.files import read_parquet
from undertone.study.config.vectors import Downstream
from undertone.vectors.last_token import steered

BATCH = 32
# A temperature so low that only the likeliest token is drawn.
GREEDY = 1e-6
# Classes of tokens: the last one of a prompt, which predicts the first of an answer; those of the answer; and both.
CLASSES = ("last", "continuation", "all")


def unbuilt(loaded: LoadedModel, prompts: Path, questions: Path, used_prompts: int, settings: Downstream) -> list[Row]:
    """Return questions and number prompts that no vector is built from, each `continued`.

    The first `used_prompts` number prompts are skipped: a vector may be built from them. Raises ValueError for fewer than four.
    """
    users = [*load_texts(questions, "pref.questions")[1::2], *read_parquet(prompts)["prompt"].to_list()[used_prompts:]]
    rows = continued(loaded, prompt_ids(loaded.tokenizer, users[: settings.rows]), settings.new_tokens)
    if len(rows) < 4:
        raise ValueError(
            f"downstream: {len(rows)} prompts built nothing, expected 4 or more: ask for more number prompts (prompts.n)"
        )
    return rows


def continued(loaded: LoadedModel, prompts: Sequence[Sequence[int]], n: int) -> list[Row]:
    """Return each prompt with the model's greedy continuation of up to `n` tokens, and a stop token that nothing reads."""
    written: dict[int, list[int]] = {}
    for rows, completions in sample(loaded.model, prompts, Sampler(GREEDY, n, loaded.stop_ids, loaded.pad_id, 0), BATCH):
        written |= {row: completion.ids for row, completion in zip(rows, completions, strict=True)}
    return [Row([*ids, *written[k], loaded.stop_ids[0]], len(ids)) for k, ids in enumerate(prompts)]


@dataclass(frozen=True)
class Tokens:
    """The tokens of a batch that predict an answer, in row order: their `row`, and whether each is the `last` of a prompt."""

    row: Int[Tensor, " n_tokens"]
    last: Bool[Tensor, " n_tokens"]

    @classmethod
    def of(cls, batch: dict[str, Tensor]) -> "Tokens":
        """Find the tokens of a `collate`d batch."""
        keep = batch["labels"][:, 1:] != -100
        row = keep.nonzero()[:, 0]
        return cls(row, torch.cat([row.new_ones(1, dtype=torch.bool), row[1:] != row[:-1]]))

    def means(self, values: Float[Tensor, "n_tokens d"]) -> dict[str, Float[Tensor, "n_rows d"]]:
        """Return the mean over each row's tokens by class; in a row without a continuation the last token stands in for it."""
        n_rows = int(self.row.max()) + 1
        last = values[self.last]

        def mean(which: Tensor) -> Tensor:
            total = values.new_zeros(n_rows, values.shape[1]).index_add_(0, self.row[which], values[which])
            count = torch.bincount(self.row[which], minlength=n_rows).unsqueeze(1)
            return torch.where(count > 0, total / count.clamp(min=1), last)

        return {"last": last, "continuation": mean(~self.last), "all": mean(torch.ones_like(self.last))}


@dataclass(frozen=True)
class Pass:
    """One run: the residual stream after each layer, and the log-probabilities, at the tokens that predict an answer."""

    residual: dict[int, Float[Tensor, "n_tokens d_model"]]
    log_probs: Float[Tensor, "n_tokens vocab"]


@torch.no_grad()
def run_once(loaded: LoadedModel, batch: dict[str, Tensor], layers: Sequence[int], steering: Steering | None = None) -> Pass:
    """Run a `collate`d batch, steered or not."""
    keep = torch.nn.functional.pad(batch["labels"][:, 1:] != -100, (0, 1))
    kept: dict[int, Tensor] = {}

    def look(layer: int, residual: Tensor) -> Tensor:
        kept[layer] = residual[keep].float()
        return residual

    with ExitStack() as stack:
        if steering is not None:
            stack.enter_context(steered(loaded, steering))
        for layer in layers:
            stack.enter_context(rewritten(loaded.model, layer, partial(look, layer)))
        log_probs = label_logits(loaded.model, batch).log_softmax(-1)
    return Pass(kept, log_probs)


def batches(loaded: LoadedModel, rows: Sequence[Row]) -> list[dict[str, Tensor]]:
    """Collate rows into batches, in their order."""
    parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return [collate(part, loaded.pad_id, loaded.model.device) for part in parts]
