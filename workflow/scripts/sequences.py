from pathlib import Path

from undertone.read.sequences import read_sequences
from undertone.study.job import given, logged, settings

with logged(snakemake.log[0]):
    sae = given(snakemake.input.sae)
    read_sequences(
        Path(snakemake.input.record),
        Path(snakemake.input.numbers),
        (given(snakemake.input.teacher), sae),
        (given(snakemake.input.other), sae),
        Path(snakemake.output.table),
        Path(snakemake.output.result),
        settings(snakemake),
        snakemake.params.stamp,
    )
