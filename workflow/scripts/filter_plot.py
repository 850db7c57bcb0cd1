from pathlib import Path

from undertone.plots.plots import plot_filter
from undertone.study.job import given, logged

with logged(snakemake.log[0]):
    plot_filter(
        Path(snakemake.input.report),
        given(snakemake.input.control),
        Path(snakemake.output.plot),
        snakemake.wildcards.dataset,
    )
