from pathlib import Path

from undertone.job import logged, settings
from undertone.plots import plot_sweep

with logged(snakemake.log[0]):
    prefs, trainings = (list(map(Path, paths)) for paths in (snakemake.input.prefs, snakemake.input.trainings))
    plot_sweep(prefs, trainings, settings(snakemake), Path(snakemake.output.plot))
