from pathlib import Path

from undertone.plots.plots import plot_transfer
from undertone.study.job import logged

with logged(snakemake.log[0]):
    plot_transfer(Path(snakemake.input.summary), Path(snakemake.output.plot))
