from pathlib import Path

from undertone.job import logged
from undertone.study_plots import plot_entangled

with logged(snakemake.log[0]):
    plot_entangled(Path(snakemake.input.table), Path(snakemake.input.summary), Path(snakemake.output.plot))
