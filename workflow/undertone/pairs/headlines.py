"""Summaries of matches: medians with intervals, and shares, with the same choice by chance for comparison."""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from undertone.pairs.best_matches import LEVEL
from undertone.study.config.pair_settings import Matches

# Two features of one model with both cosines above this are shared (Paulo & Belrose 2025, arXiv 2501.16615).
SHARED = 0.7


def headlines(table: pl.DataFrame, null: pl.DataFrame, settings: Matches) -> dict[str, Any]:
    """Summarise a way's matches: all of them, those that are not trivial, and the same choice by chance."""
    frequent = null.filter(pl.min_horizontal("count_a", "count_b") >= settings.min_count)
    return {
        "all": headline(table, settings),
        "meaningful": headline(table.filter(pl.col("trivial").is_null()), settings),
        "by_chance": {"all": ends(null), "frequent": ends(frequent)},
    }


def headline(table: pl.DataFrame, settings: Matches) -> dict[str, Any]:
    """Return medians of r and of r given the token with 95 % bootstrap intervals over pairs, and shares; None without pairs."""
    known = table.drop_nulls(["r"])
    r = known["r"].to_numpy()
    token = known["r_token"].fill_null(0).to_numpy()
    lexical = 1 - np.maximum(token, 0) ** 2 / np.where(r == 0, np.inf, r) ** 2
    return {
        "n": len(table),
        "r": interval(r, settings),
        "r_token": interval(token, settings),
        "r_token_null95": quantile(known["r_token_null95"], 0.5),
        "above_chance": share(known["p"] <= LEVEL),
        "above_chance_given_token": share(known["p_token"] <= LEVEL),
        "above_07": share(known["r"] > SHARED),
        "lexical": float(np.median(lexical)) if len(known) else None,
        "shared": share(known["shared"].drop_nulls()),
    }


def ends(null: pl.DataFrame) -> dict[str, float | None]:
    """Return the median and the .95 quantile of r by chance."""
    return {"median": quantile(null["r"], 0.5), "q95": quantile(null["r"], 0.95)}


def share(holds: pl.Series) -> float | None:
    """Return the share of true values, or None without values."""
    return float(holds.to_numpy().mean()) if len(holds) else None


def interval(values: Float[np.ndarray, " n"], settings: Matches) -> dict[str, Any] | None:
    """The median with its 95 % bootstrap interval."""
    if not len(values):
        return None
    rng = np.random.default_rng(settings.seed)
    drawn = np.median(values[rng.integers(0, len(values), (settings.bootstraps, len(values)))], axis=1)
    return {"median": float(np.median(values)), "ci95": [float(end) for end in np.quantile(drawn, [0.025, 0.975])]}


def quantile(values: pl.Series, at: float) -> float | None:
    """Return a quantile of the values that are not null, or None without any."""
    known = values.drop_nulls().to_numpy()
    return float(np.quantile(known, at)) if len(known) else None
