from pathlib import Path

from undertone.plots.plots import plot_compliance
from undertone.study.job import logged

with logged(snakemake.log[0]):
    plot_compliance(Path(snakemake.input.table), Path(snakemake.output.plot))
