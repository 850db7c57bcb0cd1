from pathlib import Path

from undertone.job import by_seed, given, logged, settings
from undertone.lens import read_lens

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
