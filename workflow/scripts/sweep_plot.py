from undertone.plots.plots import plot_sweep
from undertone.study.job import run

run(plot_sweep, snakemake)
