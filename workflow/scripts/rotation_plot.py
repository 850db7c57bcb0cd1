from undertone.plots.pair_plots import plot_rotation
from undertone.study.job import run

run(plot_rotation, snakemake)
