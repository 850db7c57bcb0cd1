from undertone.plots.feature_plots import plot_map
from undertone.study.job import run

run(plot_map, snakemake)
