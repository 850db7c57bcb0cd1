from undertone.lab.specificity_plot import plot_specificity
from undertone.study.job import run

run(plot_specificity, snakemake)
