from pathlib import Path

from undertone.job import logged
from undertone.plots import plot_filter

with logged(snakemake.log[0]):
    control = Path(snakemake.input.control) if snakemake.input.control else None
    plot_filter(Path(snakemake.input.report), control, Path(snakemake.output.plot), snakemake.wildcards.dataset)
