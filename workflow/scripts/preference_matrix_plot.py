from pathlib import Path

from undertone.job import logged
from undertone.plots import plot_preference_matrix

with logged(snakemake.log[0]):
    plot_preference_matrix(Path(snakemake.input.table), Path(snakemake.output.plot))
