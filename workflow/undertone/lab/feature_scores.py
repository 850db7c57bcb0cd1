"""Input and output scores of features, after Arad et al. 2025 (arXiv 2505.20063).

Input score: does a feature raise the tokens that it fires on? Output score: does the model then say them? Each score has a
null: the same score with the raised tokens of other features.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from sae_lens import SAE
from torch import Tensor

from undertone.lab.peaks import Peaks
from undertone.lab.reading import Reader
from undertone.lm.attribution import direct_logits
from undertone.lm.chat import Row
from undertone.lm.loading import LoadedModel
from undertone.lm.points import read_at
from undertone.lm.suffix import prefill, run_above
from undertone.lm.training import collate
from undertone.runtime.progress import progress
from undertone.saes.decoder import directions
from undertone.saes.features import token_table

# Most raised tokens of a feature that count, and other features whose raised tokens serve as its null.
RAISED, OTHERS = 50, 20


def raised(loaded: LoadedModel, sae: SAE[Any]) -> tuple[dict[str, Any], Int[Tensor, "d_sae n_raised"]]:
    """Return `logits_up` and `logits_down` of every feature, and the ids of the 50 tokens that its decoder row raises most."""
    up, down, most = [], [], []
    for direction in sae.W_dec.float():
        logits = direct_logits(loaded.model, direction)
        table = token_table(loaded, logits)
        up.append([{"text": text, "value": value} for text, value in table["top"]])
        down.append([{"text": text, "value": value} for text, value in table["bottom"]])
        n = min(len(loaded.tokenizer), len(logits))
        most.append(logits[:n].topk(min(RAISED, n)).indices)
    return {"logits_up": up, "logits_down": down}, torch.stack(most)


def others(d_sae: int, seed: int) -> Int[np.ndarray, "d_sae n_others"]:
    """Draw up to 20 other features at random for every feature."""
    rng = np.random.default_rng(seed)
    n = min(OTHERS, d_sae - 1)
    return np.array([rng.choice(np.delete(np.arange(d_sae), j), n, replace=False) for j in range(d_sae)]).reshape(d_sae, n)


def input_scores(
    top: Peaks,
    contexts: Sequence[Sequence[int]],
    most: Int[Tensor, "d_sae n_raised"],
    other: Int[np.ndarray, "d_sae n_others"],
) -> dict[str, pl.Series]:
    """Return the share of a feature's top examples whose token is among those it raises most; null without examples."""
    sets = [set(tokens) for tokens in most.tolist()]
    entries = zip(top.row.tolist(), top.position.tolist(), top.score.tolist(), strict=True)
    own: list[float | None] = []
    null: list[float | None] = []
    for j, entry in enumerate(entries):
        tokens = [contexts[row][position] for row, position, score in zip(*entry, strict=True) if score > -np.inf]
        shares = [float(np.mean([token in sets[k] for token in tokens])) for k in (j, *other[j])] if tokens else []
        own.append(shares[0] if shares else None)
        null.append(float(np.mean(shares[1:])) if len(shares) > 1 else None)
    return series("input_score", own, null)


@torch.no_grad()
def output_scores(
    reader: Reader,
    level: Float[Tensor, " d_sae"],
    most: Int[Tensor, "d_sae n_raised"],
    other: Int[np.ndarray, "d_sae n_others"],
    n: int,
    seed: int,
) -> dict[str, pl.Series]:
    """Return the mean rise, in nats, of the log-probabilities of a feature's raised tokens when it is clamped to its `level`.

    It is clamped at the last token of `n` contexts, cut at random. Null if the level is 0, if the SAE's features have no fixed
    directions, or without contexts.
    """
    d_sae = len(level)
    own: list[float | None] = [None] * d_sae
    null: list[float | None] = [None] * d_sae
    rows = cut(reader, n, seed)
    try:
        direction = directions(reader.sae)
    except ValueError:
        rows = []
    if not rows:
        return series("output_score", own, null)
    model, layer = reader.loaded.model, reader.at.layer
    batch = prefill(reader.loaded, rows, [layer])
    residual = batch.residual[layer]
    acts = reader.sae.encode(at_ends(reader, rows))
    base = run_above(model, batch, layer).log_softmax(-1)
    with progress(d_sae, "output scores", "feature") as bar:
        for j in range(d_sae):
            if level[j] > 0:
                missing = (level[j].float() - acts[..., j]).unsqueeze(-1) * direction[j]
                moved = run_above(model, batch, layer, residual + missing.to(residual)).log_softmax(-1)
                rise = (moved - base).mean(0)
                own[j] = float(rise[most[j]].mean())
                null[j] = float(rise[most[torch.as_tensor(other[j], device=most.device)]].mean()) if len(other[j]) else None
            bar.update()
    return series("output_score", own, null)


@torch.no_grad()
def at_ends(reader: Reader, rows: Sequence[Row]) -> Float[Tensor, "n_rows 1 d_model"]:
    """Return what the SAE reads at the last token before each row's completion.

    What a feature would add there can be added to the residual stream after the layer: the MLP's output is a summand of it.
    """
    ends = [Row(row.ids[: row.start], 0) for row in rows]

    def read(part: Sequence[Row]) -> Tensor:
        batch = collate(part, reader.loaded.pad_id, reader.loaded.model.device)
        last = batch["attention_mask"].sum(1) - 1
        return read_at(reader.loaded.model, reader.at, batch)[torch.arange(len(part)), last].float().unsqueeze(1)

    return torch.cat([*reader.loaded.batch_size("contexts read together", reader.at_once).parts(read, ends)])


def cut(reader: Reader, n: int, seed: int) -> list[Row]:
    """Draw up to `n` contexts at random and cut each after a random text token; the next token is the row's completion."""
    rng = np.random.default_rng(seed)
    special = set(reader.loaded.special.tolist())
    rows: list[Row] = []
    for k in rng.permutation(len(reader.rows)):
        ids = reader.rows[k].ids
        places = [at for at, token in enumerate(ids[:-1]) if at and token not in special]
        if len(rows) == n:
            break
        if places:
            at = int(rng.choice(places))
            rows.append(Row(ids[: at + 2], at + 1))
    return rows


def series(name: str, own: list[float | None], null: list[float | None]) -> dict[str, pl.Series]:
    """Return a score and its null as columns."""
    return {name: pl.Series(own, dtype=pl.Float64), f"{name}_null": pl.Series(null, dtype=pl.Float64)}
