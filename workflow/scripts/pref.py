from pathlib import Path

from undertone.measure.pref import measure
from undertone.study.job import by_seed, given, logged, settings

with logged(snakemake.log[0]):
    measure(
        Path(snakemake.input.record),
        by_seed(snakemake.input.students),
        given(snakemake.input.control),
        (given(snakemake.input.teacher), given(snakemake.input.sae)),
        Path(snakemake.output.pref),
        Path(snakemake.output.table),
        settings(snakemake),
        snakemake.params.stamp,
    )
