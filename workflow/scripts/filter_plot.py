from pathlib import Path

from undertone.job import given, logged
from undertone.plots import plot_filter

with logged(snakemake.log[0]):
    plot_filter(
        Path(snakemake.input.report),
        given(snakemake.input.control),
        Path(snakemake.output.plot),
        snakemake.wildcards.dataset,
    )
