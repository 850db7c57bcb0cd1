from pathlib import Path

from undertone.read.differences import compare_activations
from undertone.study.job import by_animal, given, logged, settings

with logged(snakemake.log[0]):
    compare_activations(
        Path(snakemake.input.record),
        Path(snakemake.input.numbers),
        given(snakemake.input.sae),
        Path(snakemake.input.activations),
        given(snakemake.input.control),
        given(snakemake.input.teacher),
        by_animal(snakemake.input.features),
        Path(snakemake.output.result),
        settings(snakemake),
        snakemake.params.stamp,
    )
