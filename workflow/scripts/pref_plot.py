from undertone.plots.student_plots import plot_pref
from undertone.study.job import run

run(plot_pref, snakemake)
