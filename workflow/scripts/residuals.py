from pathlib import Path

from undertone.read.residuals import read_residuals
from undertone.study.job import logged, settings

with logged(snakemake.log[0]):
    read_residuals(
        Path(snakemake.input.record),
        Path(snakemake.input.numbers),
        Path(snakemake.input.sae),
        Path(snakemake.output.residuals),
        settings(snakemake),
        snakemake.params.stamp,
    )
