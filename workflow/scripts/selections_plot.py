from undertone.plots.selections_plot import plot_selections
from undertone.study.job import run

run(plot_selections, snakemake)
