from undertone.study.job import run
from undertone.vectors.dose_plot import plot_dose

run(plot_dose, snakemake)
