from pathlib import Path

from undertone.compare.controls import compare_controls
from undertone.study.job import logged, settings

with logged(snakemake.log[0]):
    compare_controls(
        list(map(Path, snakemake.input.prefs)), settings(snakemake), Path(snakemake.output.result), snakemake.params.stamp
    )
