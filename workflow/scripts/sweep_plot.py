from pathlib import Path

from undertone.plots.plots import plot_sweep
from undertone.study.job import logged, settings

with logged(snakemake.log[0]):
    prefs, trainings = (list(map(Path, paths)) for paths in (snakemake.input.prefs, snakemake.input.trainings))
    plot_sweep(prefs, trainings, settings(snakemake), Path(snakemake.output.plot))
