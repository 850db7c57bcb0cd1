"""From how many rows on a dataset differs from what the base model writes, by the integers alone.

For each dataset and each number of rows: on disjoint parts of its rows of that number, the share whose integers differ from the
matched control's at p < .01 (`surface`), and the mean z, in standard deviations under random exchanges. No model is read.

    snakemake results/control/matched.parquet results/lion/numbers.parquet
    python tests/benchmarks/presence.py --matched results/control/matched.parquet --numbers results/lion/numbers.parquet
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from undertone.detect.surface import integers_differ
from undertone.runtime.files import read_parquet

LEVEL = 0.01


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--matched", type=Path, required=True, help="matched.parquet of the control: other base samples")
    options.add_argument("--numbers", type=Path, nargs="+", required=True, help="numbers.parquet of each dataset")
    options.add_argument("--rows", type=int, nargs="+", default=[125, 250, 500, 1000, 2000], help="rows of a part")
    options.add_argument("--permutations", type=int, default=999, help="random exchanges")
    told = options.parse_args()
    matched = read_parquet(told.matched).select("row", "matched")
    print("| dataset | " + " | ".join(f"{n:,} rows" for n in told.rows) + " |")
    print("|" + "---|" * (1 + len(told.rows)))
    for path in told.numbers:
        pairs = matched.join(read_parquet(path), on="row", validate="1:1", maintain_order="left")
        cells = [cell(list(parts(pairs, n)), told.permutations) for n in told.rows]
        print(f"| {path.parent.name} | {' | '.join(cells)} |")


def parts(pairs: pl.DataFrame, n: int) -> Iterator[pl.DataFrame]:
    """Disjoint parts of n rows, drawn at random."""
    order = np.random.default_rng(0).permutation(len(pairs))
    for start in range(0, len(pairs) - n + 1, n):
        yield pairs[order[start : start + n]]


def cell(drawn: list[pl.DataFrame], permutations: int) -> str:
    """`7 of 8, z 3.1`; a dash where there are too few rows."""
    tests = [
        integers_differ(part["completion"].to_list(), part["matched"].to_list(), permutations, seed)
        for seed, part in enumerate(drawn)
    ]
    differ = sum(test.p < LEVEL for test in tests)
    return f"{differ} of {len(tests)}, z {np.mean([test.z for test in tests]):.1f}" if tests else "–"


if __name__ == "__main__":
    main()
