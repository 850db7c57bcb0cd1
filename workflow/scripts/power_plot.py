from undertone.detect.power_plot import plot_power
from undertone.study.job import run

run(plot_power, snakemake)
