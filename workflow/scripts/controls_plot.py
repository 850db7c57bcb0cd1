from undertone.plots.transfer_plots import plot_controls
from undertone.study.job import run

run(plot_controls, snakemake)
