from undertone.plots.feature_plots import plot_neighbours
from undertone.study.job import run

run(plot_neighbours, snakemake)
