from undertone.plots.data_plots import plot_filter
from undertone.study.job import run

run(plot_filter, snakemake)
