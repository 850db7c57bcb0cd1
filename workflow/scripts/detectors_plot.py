from undertone.detect.detectors_plot import plot_detectors
from undertone.study.job import run

run(plot_detectors, snakemake)
