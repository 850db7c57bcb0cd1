"""Descriptions of an SAE's features and of directions in its space: tokens, examples, links, cosines."""

import heapq
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor

from undertone.lm.attribution import direct_logits
from undertone.lm.chat import Row
from undertone.lm.hooks import resid_post
from undertone.lm.loading import LoadedModel
from undertone.lm.sampling import order_by_length
from undertone.lm.training import collate
from undertone.saes.saved import rows_at_once

BATCH = 64
# For display only, used in no computation: a feature's tokens, and the tokens before and after an example's own.
N_TOKENS = 10
BEFORE, AFTER = 6, 2


def extreme_tokens(loaded: LoadedModel, direction: Float[Tensor, " d_model"], n: int = N_TOKENS) -> dict[str, list[list[Any]]]:
    """Return the `n` tokens that a residual direction raises (`top`) and lowers (`bottom`) most by its direct effect.

    Each is (text, change of its logit), relative to the vocabulary's mean and per unit of the final residual stream's root mean
    square.
    """
    return token_table(loaded, direct_logits(loaded.model, direction.to(loaded.model.device).float()), n)


def token_table(loaded: LoadedModel, logits: Float[Tensor, " vocab"], n: int = N_TOKENS) -> dict[str, list[list[Any]]]:
    """Return the tokens with the `n` greatest and the `n` least `logits`, each with its logit."""
    logits = logits[: len(loaded.tokenizer)].float()
    sides = {"top": logits.topk(min(n, len(logits))), "bottom": logits.topk(min(n, len(logits)), largest=False)}
    return {
        side: [
            [text_of(loaded, token), value] for token, value in zip(most.indices.tolist(), most.values.tolist(), strict=True)
        ]
        for side, most in sides.items()
    }


def text_of(loaded: LoadedModel, *tokens: int) -> str:
    """The text of token ids."""
    return str(loaded.tokenizer.decode(list(tokens)))


def neuronpedia(sae: SAE[Any], feature: int) -> str | None:
    """Return the URL of the feature's page on Neuronpedia, or None if the SAE is not there."""
    home = sae.cfg.metadata.neuronpedia_id
    return f"https://www.neuronpedia.org/{home}/{feature}" if home else None


def unit_rows(sae: SAE[Any]) -> Float[Tensor, "d_sae d_model"]:
    """Return the decoder rows at unit length, on the CPU; a row of zeros stays zero."""
    return torch.nn.functional.normalize(sae.W_dec.detach().float().cpu(), dim=-1)


def cosines(sae: SAE[Any], vector: Float[Tensor, " d_model"]) -> Float[Tensor, " d_sae"]:
    """Return the cosine of a residual direction with every decoder row."""
    return unit_rows(sae) @ torch.nn.functional.normalize(vector.float().cpu(), dim=-1)


def most_aligned(sae: SAE[Any], vector: Float[Tensor, " d_model"], n: int) -> list[dict[str, Any]]:
    """Return the `n` decoder rows with the greatest |cosine| with a residual direction."""
    cosine = cosines(sae, vector)
    order = cosine.abs().topk(min(n, len(cosine))).indices.tolist()
    return [{"feature": k, "cosine": float(cosine[k])} for k in order]


@torch.no_grad()
def max_examples(
    loaded: LoadedModel, sae: SAE[Any], layer: int, rows: Sequence[Row], features: Sequence[int], n: int
) -> dict[int, list[dict[str, Any]]]:
    """Return, for each feature, the `n` rows on which the base model activates it most.

    Each example is at the row's text token of greatest activation: `token`, `before` and `after` (text around it),
    `activation`, and `part` (prompt or completion). Rows on which a feature is never active are left out.
    """
    best: dict[int, list[tuple[float, int, int]]] = {feature: [] for feature in features}
    if not features or not n:
        return {feature: [] for feature in features}

    def peaks(indices: Sequence[int]) -> tuple[Sequence[int], list[list[float]], list[list[int]]]:
        batch = collate([rows[i] for i in indices], loaded.pad_id, loaded.model.device)
        residual = resid_post(loaded.model, layer, batch).float()
        size = rows_at_once(sae, residual.shape[1])
        acts = torch.cat([sae.encode(part)[..., list(features)] for part in torch.split(residual, size)])
        value, position = acts.masked_fill(~loaded.text_mask(batch).unsqueeze(-1), 0.0).max(1)
        return indices, value.T.tolist(), position.T.tolist()

    order = order_by_length([row.ids for row in rows])
    for indices, peak, position in loaded.batch_size("rows read together", BATCH).parts(peaks, order):
        for feature, values, positions in zip(features, peak, position, strict=True):
            peaks_here = [(v, -i, at) for v, i, at in zip(values, indices, positions, strict=True) if v > 0]
            best[feature] = heapq.nlargest(n, best[feature] + peaks_here)
    return {k: [_example(loaded, rows[-i], at, value) for value, i, at in most] for k, most in best.items()}


def _example(loaded: LoadedModel, row: Row, at: int, value: float) -> dict[str, Any]:
    return {
        "token": text_of(loaded, row.ids[at]),
        "before": text_of(loaded, *row.ids[max(0, at - BEFORE) : at]),
        "after": text_of(loaded, *row.ids[at + 1 : at + 1 + AFTER]),
        "activation": value,
        "part": "completion" if at >= row.start else "prompt",
    }


def describe(
    loaded: LoadedModel, sae: SAE[Any], layer: int, rows: Sequence[Row], features: Sequence[int], n_examples: int
) -> dict[str, dict[str, Any]]:
    """Describe each feature by its `tokens` (direct logit attribution of its decoder row), `neuronpedia` and `examples`."""
    examples = max_examples(loaded, sae, layer, rows, features, n_examples)
    return {
        str(k): {
            "tokens": extreme_tokens(loaded, sae.W_dec[k]),
            "neuronpedia": neuronpedia(sae, k),
            "examples": examples[k],
        }
        for k in features
    }
