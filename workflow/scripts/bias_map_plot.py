from pathlib import Path

from undertone.job import logged
from undertone.study_plots import plot_bias_map

with logged(snakemake.log[0]):
    plot_bias_map(list(map(Path, snakemake.input.prefs)), Path(snakemake.output.plot))
