from undertone.study.job import run
from undertone.vectors.cloud_plot import plot_cloud

run(plot_cloud, snakemake)
