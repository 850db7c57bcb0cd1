from pathlib import Path

from undertone.read.residual_bias import train_residual_biases
from undertone.study.job import given, logged, settings

with logged(snakemake.log[0]):
    train_residual_biases(
        Path(snakemake.input.record),
        given(snakemake.input.sae),
        Path(snakemake.input.numbers),
        given(snakemake.input.control),
        Path(snakemake.output.biases),
        Path(snakemake.output.result),
        settings(snakemake),
        snakemake.params.stamp,
    )
