from pathlib import Path

from undertone.measure.diagnosis import diagnose
from undertone.study.job import by_seed, given, logged, settings

with logged(snakemake.log[0]):
    tables = ("generations", "numbers", "control", "filter", "pref", "indirect")
    diagnose(
        Path(snakemake.input.record),
        {name: Path(snakemake.input.get(name)) for name in tables},
        by_seed(snakemake.input.students),
        by_seed(snakemake.input.controls),
        (given(snakemake.input.teacher), given(snakemake.input.sae)),
        Path(snakemake.output.result),
        settings(snakemake),
        snakemake.params.stamp,
    )
