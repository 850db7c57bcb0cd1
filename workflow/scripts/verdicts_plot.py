from undertone.detect.verdicts_plot import plot_verdicts
from undertone.study.job import run

run(plot_verdicts, snakemake)
