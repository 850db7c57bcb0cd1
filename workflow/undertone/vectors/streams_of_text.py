"""Text on which norms, covariances and side effects are measured."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from undertone.lab.context_table import read_contexts
from undertone.lm.chat import Row, encode
from undertone.lm.hooks import resid_post
from undertone.lm.loading import LoadedModel
from undertone.lm.texts import load_texts

BATCH = 32


def text_rows(loaded: LoadedModel, path: Path, tokens: int) -> list[Row]:
    """The first contexts of a `text.parquet`, or of a file with one text per line, that hold `tokens` tokens of text."""
    bos = [] if loaded.tokenizer.bos_token_id is None else [loaded.tokenizer.bos_token_id]
    if path.suffix == ".parquet":
        contexts: list[list[int]] = read_contexts(path)
    else:
        contexts = [[*bos, *ids] for ids in encode(loaded.tokenizer, load_texts(path, "differences.neutral"))]
    special = set(loaded.special.tolist())
    return list(until((Row(ids, 1) for ids in contexts if len(ids) > 1), special, tokens))


def until(rows: Iterator[Row], special: set[int], tokens: int) -> Iterator[Row]:
    """Yield rows until they hold `tokens` tokens of text."""
    n = 0
    for row in rows:
        if n >= tokens:
            return
        n += sum(token not in special for token in row.ids)
        yield row


@torch.no_grad()
def residuals_of(loaded: LoadedModel, rows: Sequence[Row], layer: int, max_norm: float) -> Float[Tensor, "n_tokens d_model"]:
    """Return the residual stream after a layer at text tokens, without tokens of more than `max_norm` median norms."""

    def at_text(batch: dict[str, Tensor]) -> Tensor:
        return resid_post(loaded.model, layer, batch).float()[loaded.text_mask(batch)].cpu()

    residuals = torch.cat(list(loaded.read(at_text, rows, BATCH)))
    norms = residuals.norm(dim=-1)
    return residuals[norms <= max_norm * norms.median()]


def gaussian(residuals: Float[Tensor, "n_tokens d_model"], n: int, generator: torch.Generator) -> Float[Tensor, "n d_model"]:
    """Draw `n` vectors from N(0, Cov) of these residuals."""
    centred = residuals - residuals.mean(0)
    return torch.randn(n, len(centred), generator=generator) @ centred / len(centred) ** 0.5
