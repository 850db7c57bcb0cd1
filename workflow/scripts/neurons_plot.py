from undertone.plots.feature_plots import plot_neurons
from undertone.study.job import run

run(plot_neurons, snakemake)
