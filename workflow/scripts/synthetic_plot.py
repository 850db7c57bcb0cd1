from undertone.plots.synthetic_plot import plot_synthetic
from undertone.study.job import run

run(plot_synthetic, snakemake)
