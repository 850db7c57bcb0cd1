from pathlib import Path

from undertone.job import logged
from undertone.plots import plot_compliance

with logged(snakemake.log[0]):
    plot_compliance(Path(snakemake.input.table), Path(snakemake.output.plot))
