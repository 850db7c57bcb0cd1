from undertone.plots.transfer_plots import plot_sweep
from undertone.study.job import run

run(plot_sweep, snakemake)
