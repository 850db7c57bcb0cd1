from undertone.pairs.transplant_plot import plot_transplant
from undertone.study.job import run

run(plot_transplant, snakemake)
