"""Searches for features with a few texts: those that fire on them, that an answer depends on, or that raise a word.

A feature that fires need not be a cause. Attribution (activation times gradient, Marks et al. 2024, arXiv 2403.19647, section
3) estimates the effect of ablating a feature on an answer, and the first features are then really ablated. Influence sets each
feature high.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int

from undertone.lab.context_table import read_contexts
from undertone.lab.firing_texts import FiringOn
from undertone.lab.word_effects import WordEffects
from undertone.lm.attribution import direct_logits
from undertone.lm.chat import prompt_ids
from undertone.lm.loading import LoadedModel, load
from undertone.runtime.errors import ConfigError
from undertone.runtime.files import Stamp, read_parquet, write_json
from undertone.saes.saved import load_sae, load_sae_at
from undertone.study.config.search_settings import Search

# Tokens shown for a feature.
TOKENS = 5


def search_features(
    model: Path,
    sae: Path,
    features: Path,
    text: Path,
    search: Path,
    entry: dict[str, Any],
    max_norm: float,
    stamp: Stamp,
) -> str:
    """Write `search.json`: the features that a search finds, in order; return a message for the log.

    `features` is the SAE's `features.parquet`, `text` the contexts that features were read on. Features that are dead or rare
    on these are left out. Raises ConfigError if nothing can be searched for.
    """
    loaded, table, settings = load(model), read_parquet(features), Search.model_validate(entry)
    known = table.filter(~pl.col("dead") & ~pl.col("rare"))["feature"].to_numpy()
    if not len(known):
        raise ConfigError(f"no feature of {sae} fires often enough to be searched for")
    positive, negative = (
        prompt_ids(loaded.tokenizer, texts) if texts else [] for texts in (settings.positive, settings.negative)
    )
    if settings.by == "activation":
        read = FiringOn(loaded, *load_sae_at(sae, loaded), known, table, max_norm)
        result = read.searched(positive, negative, read_contexts(text), settings)
    else:
        effects = WordEffects(loaded, *load_sae(sae, loaded), known, positive, negative, settings)
        baselines = {"density": density(table, known), "direct_logit": direct(loaded, effects, known)}
        result = effects.attributed(baselines) if settings.by == "attribution" else effects.influential(table, baselines)
    described = [{**described_by(table, row["feature"]), **row} for row in result.pop("features")]
    body = {"by": settings.by, "word": settings.word, "texts": len(positive), "known": len(known)}
    write_json(search, {**body, **result, "features": described}, stamp)
    return said(described, result)


def density(table: pl.DataFrame, known: Int[np.ndarray, " n_known"]) -> Float[np.ndarray, " n_known"]:
    """Return the share of tokens on which each known feature fires."""
    return table["density"].to_numpy()[known]


def direct(loaded: LoadedModel, effects: WordEffects, known: Int[np.ndarray, " n_known"]) -> Float[np.ndarray, " n_known"]:
    """Return what each known feature's decoder row would add to the word's logit if no layer came after it."""
    rows = effects.rows[torch.as_tensor(known, device=effects.rows.device)]
    return np.array([float(direct_logits(loaded.model, row)[effects.tokens].max()) for row in rows])


def described_by(table: pl.DataFrame, feature: int) -> dict[str, Any]:
    """Return the tokens that a feature fires on, and how often it fires."""
    row = table.row(feature, named=True)
    return {"tokens": [token["text"] for token in row["tokens"][:TOKENS]], "density": row["density"]}


def said(features: Sequence[dict[str, Any]], result: dict[str, Any]) -> str:
    """Return a message on the first feature and on how many lie beyond chance."""
    if not features:
        return "no feature is found"
    first = features[0]
    return (
        f"{result['beyond_chance']} of {result['searched']} features lie beyond chance; first is {first['feature']} "
        f"({' '.join(map(repr, first['tokens'][:3]))}), {first['score']:.3g}"
    )
