from pathlib import Path

from undertone.job import logged, settings
from undertone.transform import transform_numbers

with logged(snakemake.log[0]):
    transform_numbers(
        Path(snakemake.input.source),
        Path(snakemake.input.other) if snakemake.input.other else None,
        Path(snakemake.input.prompts) if snakemake.input.prompts else None,
        *map(Path, snakemake.output),
        settings(snakemake),
        snakemake.params.stamp,
    )
