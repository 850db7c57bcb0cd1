from undertone.plots.study_plots import plot_entangled
from undertone.study.job import run

run(plot_entangled, snakemake)
