from pathlib import Path

from undertone.job import logged
from undertone.plots import plot_pref

with logged(snakemake.log[0]):
    plot_pref(Path(snakemake.input.pref), Path(snakemake.output.plot), snakemake.wildcards.dataset)
