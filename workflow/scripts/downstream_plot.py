from undertone.study.job import run
from undertone.vectors.downstream_plot import plot_downstream

run(plot_downstream, snakemake)
