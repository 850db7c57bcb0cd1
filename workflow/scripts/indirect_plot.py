from undertone.plots.student_plots import plot_indirect
from undertone.study.job import run

run(plot_indirect, snakemake)
