"""Table of every feature's examples: the tokens around each, and the feature's activation on them."""

from typing import Any

import numpy as np
import polars as pl

from undertone.lab.peaks import Peaks
from undertone.lm.chat import token_texts
from undertone.lm.loading import LoadedModel
from undertone.study.config.lab import Features

SCHEMA: dict[str, Any] = {
    "feature": pl.Int64,
    "group": pl.String,
    "rank": pl.Int64,
    "row": pl.Int64,
    "position": pl.Int64,
    "activation": pl.Float32,
    "start": pl.Int64,
    "tokens": pl.List(pl.String),
    "values": pl.List(pl.Float32),
    "gives": pl.List(pl.Float32),
}


def shown_texts(loaded: LoadedModel) -> list[str]:
    """Return the text of every token id; for a special token, its name."""
    n = loaded.model.get_input_embeddings().num_embeddings
    texts = token_texts(loaded.tokenizer, min(n, len(loaded.tokenizer)))
    for token in loaded.special.tolist():
        if token < len(texts):
            texts[token] = str(loaded.tokenizer.convert_ids_to_tokens(token))
    return texts


def example_rows(
    loaded: LoadedModel,
    groups: dict[str, Peaks],
    gives: dict[tuple[int, int], list[float]],
    contexts: list[list[int]],
    settings: Features,
) -> pl.DataFrame:
    """Return a table with a row per example.

    Columns: `feature`; `group`; `rank` from 1; `row` and `position`; `activation`; `start` and `tokens` of what is shown around
    it; `values`, the feature's activation on each of these tokens, null on special ones; `gives`, what each contributes to the
    example's activation, null after the example and for examples without known contributions.
    """
    texts, special = shown_texts(loaded), set(loaded.special.tolist())
    table: dict[str, list[Any]] = {name: [] for name in SCHEMA}
    for name, peaks in groups.items():
        scores, rows, positions, acts = (each.tolist() for each in (peaks.score, peaks.row, peaks.position, peaks.acts))
        for feature, entries in enumerate(zip(scores, rows, positions, acts, strict=True)):
            for rank, (score, row, position, values) in enumerate(zip(*entries, strict=True), start=1):
                if score == -np.inf:
                    continue
                start = max(0, position - settings.before)
                ids = contexts[row][start : position + settings.after + 1]
                own = values[start - position + settings.before :][: len(ids)]
                shown = [None if token in special else value for token, value in zip(ids, own, strict=True)]
                shares: list[float | None] | None = None
                if name == "top" and (feature, rank) in gives:
                    shares = [*gives[feature, rank][start:], *[None] * (len(ids) - (position + 1 - start))]
                entry = (
                    feature,
                    name,
                    rank,
                    row,
                    position,
                    own[position - start],
                    start,
                    [texts[t] for t in ids],
                    shown,
                    shares,
                )
                for column, value in zip(table.values(), entry, strict=True):
                    column.append(value)
    return pl.DataFrame(table, schema=SCHEMA).sort("feature", maintain_order=True)
