from pathlib import Path

from undertone.read.lens import read_lens
from undertone.study.job import by_seed, given, logged, settings

with logged(snakemake.log[0]):
    read_lens(
        Path(snakemake.input.record),
        by_seed(snakemake.input.students),
        by_seed(snakemake.input.controls),
        (given(snakemake.input.teacher), given(snakemake.input.sae)),
        given(snakemake.input.sae),
        Path(snakemake.output.result),
        settings(snakemake),
        snakemake.params.stamp,
    )
