from pathlib import Path

from undertone.job import logged
from undertone.plots import plot_teachers

with logged(snakemake.log[0]):
    prefs, filters = (list(map(Path, paths)) for paths in (snakemake.input.prefs, snakemake.input.filters))
    plot_teachers(prefs, filters, Path(snakemake.output.plot))
