from pathlib import Path

from undertone.plots.study_plots import plot_bias_map
from undertone.study.job import logged

with logged(snakemake.log[0]):
    plot_bias_map(list(map(Path, snakemake.input.prefs)), Path(snakemake.output.plot))
