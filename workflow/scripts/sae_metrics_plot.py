from undertone.plots.feature_plots import plot_metrics
from undertone.study.job import run

run(plot_metrics, snakemake)
