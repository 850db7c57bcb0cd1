"""What more features and more tokens are worth: laws of a grid of trainings, and of controls in which nothing is sparse."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from undertone.lab.power_law import best_spent, forecast, product, with_intervals
from undertone.runtime.files import Stamp, read_parquet, write_json, write_parquet


def make_scaling(runs: Sequence[Path], table: Path, scaling: Path, law: dict[str, int], stamp: Stamp) -> str:
    """Write all runs as one `table`, and the laws of `text` and of `gaussian` controls with intervals over runs.

    Each law's `budgets` says where compute is best spent; `pca` is what principal components leave unexplained.
    """
    grid = pl.concat([read_parquet(path) for path in runs]).sort("gaussian", "tokens", "d_sae", "seed")
    laws = {name: fit(grid.filter(gaussian=control), law) for name, control in (("text", False), ("gaussian", True))}
    own = grid.filter(gaussian=False)
    body = {
        **laws,
        "unexplained": {"best": 1 - own["explained_variance"].max(), "worst": 1 - own["explained_variance"].min()},  # type: ignore[operator]
        "pca": 1 - float(own["pca"].mean()),  # type: ignore[arg-type]
        "seeds": between_seeds(own),
    }
    write_parquet(table, grid, stamp)
    write_json(scaling, body, stamp)
    a, b = (laws["text"][name] for name in ("a", "b"))
    return f"unexplained variance falls as features^-{a['value']:.2f} and tokens^-{b['value']:.2f}, on {len(own)} runs"


def fit(grid: pl.DataFrame, law: dict[str, int]) -> dict[str, Any]:
    """Fit the law of some runs; return also how well shorter trainings forecast the longest, and the best use of compute."""
    n, tokens = (grid[name].to_numpy().astype(np.float64) for name in ("d_sae", "tokens"))
    missed = 1 - grid["explained_variance"].to_numpy()
    starts, seed = law["starts"], law["seed"]
    curve, body = with_intervals(n, tokens, missed, starts, law["bootstraps"], seed)
    widths, lengths = (sorted(set(grid[name].to_list())) for name in ("d_sae", "tokens"))
    budgets = np.geomspace(grid["flops"].min(), grid["flops"].max(), law["budgets"]).tolist()  # type: ignore[arg-type]
    spent = best_spent(curve, int(grid["d_model"][0]), budgets, widths, lengths)
    other = product(n, tokens, missed, law["bootstraps"], seed)
    return {**body, "forecast": forecast(n, tokens, missed, starts, seed), "product": other, "budgets": spent}


def between_seeds(grid: pl.DataFrame) -> float | None:
    """Return the mean SD between seeds as a share of the unexplained variance; no law of width and tokens explains it."""
    spread = grid.group_by("d_sae", "tokens", maintain_order=True).agg(
        ((1 - pl.col("explained_variance")).std() / (1 - pl.col("explained_variance")).mean()).alias("cv")
    )
    known = spread["cv"].drop_nulls()
    return float(known.mean()) if len(known) else None  # type: ignore[arg-type]
