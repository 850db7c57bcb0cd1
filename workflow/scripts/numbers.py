from pathlib import Path

from undertone.data.numbers import filter_numbers
from undertone.study.job import logged, settings

with logged(snakemake.log[0]):
    filter_numbers(
        Path(snakemake.input.source),
        *map(Path, snakemake.output),
        settings(snakemake),
        snakemake.params.stamp,
    )
