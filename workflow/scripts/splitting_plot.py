from undertone.lab.splitting_plot import plot_splitting
from undertone.study.job import run

run(plot_splitting, snakemake)
