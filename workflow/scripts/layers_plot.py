from undertone.plots.pair_plots import plot_layers
from undertone.study.job import run

run(plot_layers, snakemake)
