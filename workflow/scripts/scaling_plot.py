from undertone.lab.scaling_plot import plot_scaling
from undertone.study.job import run

run(plot_scaling, snakemake)
