from pathlib import Path

from undertone.study.job import given, logged, settings
from undertone.teachers.steer import make_steered

with logged(snakemake.log[0]):
    make_steered(
        Path(snakemake.input.record),
        given(snakemake.input.sae),
        Path(snakemake.input.prompts),
        Path(snakemake.output.record),
        settings(snakemake),
        snakemake.params.stamp,
    )
