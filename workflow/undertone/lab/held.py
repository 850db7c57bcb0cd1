"""Which features hold a concept, according to the table that `specificity` writes."""

from pathlib import Path

import polars as pl

from undertone.runtime.files import read_parquet

# Greatest p at which a unit holds a concept beyond chance; p is how often shifted concepts are held as well.
LEVEL = 0.05


def features_with_concepts(units: Path) -> pl.DataFrame:
    """Return the rows of features that hold their best concept better than shifted concepts."""
    return read_parquet(units).filter(pl.col("p") <= LEVEL, kind="feature")
