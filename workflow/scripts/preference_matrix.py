from pathlib import Path

from undertone.job import logged
from undertone.transfer import make_matrix

with logged(snakemake.log[0]):
    make_matrix(
        Path(snakemake.input.table), Path(snakemake.input.control), Path(snakemake.output.table), snakemake.params.stamp
    )
