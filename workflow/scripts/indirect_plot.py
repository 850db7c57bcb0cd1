from pathlib import Path

from undertone.plots.plots import plot_indirect
from undertone.study.job import logged

with logged(snakemake.log[0]):
    plot_indirect(Path(snakemake.input.result), Path(snakemake.output.plot), snakemake.wildcards.dataset)
