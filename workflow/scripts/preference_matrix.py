from pathlib import Path

from undertone.compare.transfer import make_matrix
from undertone.study.job import logged

with logged(snakemake.log[0]):
    make_matrix(
        Path(snakemake.input.table), Path(snakemake.input.control), Path(snakemake.output.table), snakemake.params.stamp
    )
