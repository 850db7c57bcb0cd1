from pathlib import Path

from undertone.plots.plots import plot_controls
from undertone.study.job import logged

with logged(snakemake.log[0]):
    plot_controls(Path(snakemake.input.result), Path(snakemake.output.plot))
