from pathlib import Path

from undertone.read.activations import read_student_activations
from undertone.study.job import given, logged, settings

with logged(snakemake.log[0]):
    read_student_activations(
        Path(snakemake.input.record),
        Path(snakemake.input.numbers),
        Path(snakemake.input.student).parent,
        given(snakemake.input.sae),
        Path(snakemake.output.activations),
        settings(snakemake),
        snakemake.params.stamp,
    )
