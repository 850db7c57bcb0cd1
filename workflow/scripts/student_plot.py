from undertone.plots.student_plots import plot_student
from undertone.study.job import run

run(plot_student, snakemake)
