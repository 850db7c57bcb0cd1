from pathlib import Path

from undertone.job import logged, settings
from undertone.plots import plot_transform

with logged(snakemake.log[0]):
    plot_transform(Path(snakemake.input.summary), Path(snakemake.output.plot), settings(snakemake)["groups"])
