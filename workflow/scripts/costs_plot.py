from pathlib import Path

from undertone.plots.cost_plots import plot_costs
from undertone.study.job import logged

with logged(snakemake.log[0]):
    plot_costs(Path(snakemake.input.summary), Path(snakemake.output.plot))
