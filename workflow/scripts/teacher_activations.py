from pathlib import Path

from undertone.read.activations import read_teacher_activations
from undertone.study.job import given, logged, settings

with logged(snakemake.log[0]):
    read_teacher_activations(
        Path(snakemake.input.record),
        Path(snakemake.input.numbers),
        (given(snakemake.input.teacher), given(snakemake.input.sae)),
        given(snakemake.input.sae),
        Path(snakemake.output.activations),
        settings(snakemake),
        snakemake.params.stamp,
    )
