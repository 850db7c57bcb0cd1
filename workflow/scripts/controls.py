from pathlib import Path

from undertone.controls import compare_controls
from undertone.job import logged, settings

with logged(snakemake.log[0]):
    compare_controls(
        list(map(Path, snakemake.input.prefs)), settings(snakemake), Path(snakemake.output.result), snakemake.params.stamp
    )
