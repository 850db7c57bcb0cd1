from undertone.plots.transfer_plots import plot_teachers
from undertone.study.job import run

run(plot_teachers, snakemake)
