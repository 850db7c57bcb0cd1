from pathlib import Path

from undertone.job import logged, settings
from undertone.plots import plot_controls

with logged(snakemake.log[0]):
    told = settings(snakemake)
    plot_controls(list(map(Path, snakemake.input.prefs)), told["compared"], told["transforms"], Path(snakemake.output.plot))
