from pathlib import Path

from undertone.plots.plots import plot_student
from undertone.study.job import logged

with logged(snakemake.log[0]):
    own, control = ([Path(path) for path in paths] for paths in (snakemake.input.own, snakemake.input.control))
    plot_student(own, control, Path(snakemake.output.plot), snakemake.wildcards.dataset)
