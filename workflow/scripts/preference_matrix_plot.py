from undertone.plots.transfer_plots import plot_preference_matrix
from undertone.study.job import run

run(plot_preference_matrix, snakemake)
