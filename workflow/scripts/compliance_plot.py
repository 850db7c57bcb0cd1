from undertone.plots.data_plots import plot_compliance
from undertone.study.job import run

run(plot_compliance, snakemake)
