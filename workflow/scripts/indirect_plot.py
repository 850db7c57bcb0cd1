from pathlib import Path

from undertone.job import logged
from undertone.plots import plot_indirect

with logged(snakemake.log[0]):
    plot_indirect(Path(snakemake.input.result), Path(snakemake.output.plot), snakemake.wildcards.dataset)
