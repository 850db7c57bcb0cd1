from pathlib import Path

from undertone.compare.costs import add_up
from undertone.study.job import benchmark_of, logged

with logged(snakemake.log[0]):
    records = benchmark_of(snakemake.log[0]).parents[1]
    add_up(records, Path(snakemake.output.table), Path(snakemake.output.summary), snakemake.params.stamp)
