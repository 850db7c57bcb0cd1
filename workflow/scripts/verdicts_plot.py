from undertone.detect.detection_plot import plot_detection
from undertone.study.job import run

run(plot_detection, snakemake)
