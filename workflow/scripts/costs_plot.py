from undertone.plots.cost_plots import plot_costs
from undertone.study.job import run

run(plot_costs, snakemake)
