"""Which features hold a concept, by the table that `specificity` writes."""

from pathlib import Path

import polars as pl

from undertone.runtime.files import read_parquet

# A unit holds a concept beyond chance where shifted concepts are rarely held as well.
LEVEL = 0.05


def features_with_concepts(units: Path) -> pl.DataFrame:
    """The rows of features that hold their best concept beyond shifted concepts."""
    return read_parquet(units).filter(pl.col("p") <= LEVEL, kind="feature")
