from pathlib import Path

from undertone.data.samples import sample_numbers
from undertone.study.job import given, logged, scratch, settings

with logged(snakemake.log[0]):
    stamp, samples = snakemake.params.stamp, snakemake.output.samples
    sample_numbers(
        Path(snakemake.input.record),
        Path(snakemake.input.prompts),
        given(snakemake.input.teacher),
        given(snakemake.input.sae),
        Path(samples),
        settings(snakemake),
        stamp,
        scratch(samples, stamp),
    )
