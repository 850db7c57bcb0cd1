from undertone.plots.pair_plots import plot_across
from undertone.study.job import run

run(plot_across, snakemake)
