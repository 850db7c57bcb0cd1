from pathlib import Path

from undertone.job import logged
from undertone.plots import plot_controls

with logged(snakemake.log[0]):
    plot_controls(Path(snakemake.input.result), Path(snakemake.output.plot))
