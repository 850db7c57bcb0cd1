from undertone.plots.reading_plots import plot_reading
from undertone.study.job import run

run(plot_reading, snakemake)
