from pathlib import Path

from undertone.job import logged, settings
from undertone.numbers import filter_numbers

with logged(snakemake.log[0]):
    filter_numbers(
        Path(snakemake.input.source),
        *map(Path, snakemake.output),
        settings(snakemake),
        snakemake.params.stamp,
    )
