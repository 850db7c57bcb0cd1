from pathlib import Path

from undertone.measure.indirect import measure_indirect
from undertone.study.job import by_seed, given, logged, settings

with logged(snakemake.log[0]):
    measure_indirect(
        Path(snakemake.input.record),
        by_seed(snakemake.input.students),
        by_seed(snakemake.input.controls),
        (given(snakemake.input.teacher), given(snakemake.input.sae)),
        Path(snakemake.output.indirect),
        settings(snakemake),
        snakemake.params.stamp,
    )
