from pathlib import Path

from undertone.plots.study_plots import plot_entangled
from undertone.study.job import logged

with logged(snakemake.log[0]):
    plot_entangled(Path(snakemake.input.table), Path(snakemake.input.summary), Path(snakemake.output.plot))
