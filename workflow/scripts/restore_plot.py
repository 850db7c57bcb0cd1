from undertone.study.job import run
from undertone.vectors.restore_plot import plot_restore

run(plot_restore, snakemake)
