from undertone.plots.plots import plot_filter
from undertone.study.job import run

run(plot_filter, snakemake)
