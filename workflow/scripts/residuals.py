from pathlib import Path

from undertone.job import logged, settings
from undertone.residuals import read_residuals

with logged(snakemake.log[0]):
    read_residuals(
        Path(snakemake.input.record),
        Path(snakemake.input.numbers),
        Path(snakemake.input.sae),
        Path(snakemake.output.residuals),
        settings(snakemake),
        snakemake.params.stamp,
    )
