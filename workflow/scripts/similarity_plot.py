from undertone.plots.pair_plots import plot_similarity
from undertone.study.job import run

run(plot_similarity, snakemake)
