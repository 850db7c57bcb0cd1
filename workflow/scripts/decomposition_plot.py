from undertone.study.job import run
from undertone.vectors.decomposition_plot import plot_decomposition

run(plot_decomposition, snakemake)
