from undertone.lab.judge_plot import plot_judge
from undertone.study.job import run

run(plot_judge, snakemake)
