from undertone.study.job import run
from undertone.vectors.influence_plot import plot_influence

run(plot_influence, snakemake)
