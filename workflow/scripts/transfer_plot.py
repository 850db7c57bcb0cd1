from undertone.plots.transfer_plots import plot_transfer
from undertone.study.job import run

run(plot_transfer, snakemake)
