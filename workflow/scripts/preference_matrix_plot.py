from pathlib import Path

from undertone.plots.plots import plot_preference_matrix
from undertone.study.job import logged

with logged(snakemake.log[0]):
    plot_preference_matrix(Path(snakemake.input.table), Path(snakemake.output.plot))
