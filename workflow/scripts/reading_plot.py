from pathlib import Path

from undertone.plots.reading_plots import PLOTS
from undertone.study.job import given, logged

with logged(snakemake.log[0]):
    paths = {"own": given(snakemake.input.own), "control": given(snakemake.input.control)}
    PLOTS[snakemake.wildcards.key](
        {name: path for name, path in paths.items() if path},
        Path(snakemake.output.plot),
        snakemake.wildcards.dataset,
    )
