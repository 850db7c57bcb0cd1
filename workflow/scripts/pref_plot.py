from pathlib import Path

from undertone.plots.plots import plot_pref
from undertone.study.job import logged

with logged(snakemake.log[0]):
    plot_pref(Path(snakemake.input.pref), Path(snakemake.output.plot), snakemake.wildcards.dataset)
