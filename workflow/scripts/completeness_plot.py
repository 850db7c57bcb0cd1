from undertone.lab.completeness_plot import plot_completeness
from undertone.study.job import run

run(plot_completeness, snakemake)
