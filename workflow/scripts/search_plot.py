from undertone.lab.search_plot import plot_search
from undertone.study.job import run

run(plot_search, snakemake)
