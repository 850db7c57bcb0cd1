from pathlib import Path

from undertone.job import logged
from undertone.plots import plot_transfer

with logged(snakemake.log[0]):
    plot_transfer(Path(snakemake.input.summary), Path(snakemake.output.plot))
