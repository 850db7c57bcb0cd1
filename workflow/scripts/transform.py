from pathlib import Path

from undertone.data.transform import transform_numbers
from undertone.study.job import given, logged, settings

with logged(snakemake.log[0]):
    transform_numbers(
        Path(snakemake.input.source),
        given(snakemake.input.other),
        given(snakemake.input.prompts),
        *map(Path, snakemake.output),
        settings(snakemake),
        snakemake.params.stamp,
    )
