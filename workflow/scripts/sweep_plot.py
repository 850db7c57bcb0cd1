from pathlib import Path

from undertone.job import logged, settings
from undertone.plots import plot_sweep

with logged(snakemake.log[0]):
    plot_sweep(list(map(Path, snakemake.input.prefs)), settings(snakemake), Path(snakemake.output.plot))
