from pathlib import Path

from undertone.job import given, logged, settings
from undertone.transform import transform_numbers

with logged(snakemake.log[0]):
    transform_numbers(
        Path(snakemake.input.source),
        given(snakemake.input.other),
        given(snakemake.input.prompts),
        *map(Path, snakemake.output),
        settings(snakemake),
        snakemake.params.stamp,
    )
