from undertone.plots.geometry_plots import plot_hierarchy
from undertone.study.job import run

run(plot_hierarchy, snakemake)
