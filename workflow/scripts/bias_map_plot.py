from undertone.plots.study_plots import plot_bias_map
from undertone.study.job import run

run(plot_bias_map, snakemake)
