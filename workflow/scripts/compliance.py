from pathlib import Path

from undertone.job import by_dataset, logged
from undertone.numbers import collect_compliance

with logged(snakemake.log[0]):
    collect_compliance(by_dataset(snakemake.input.filters), Path(snakemake.output.table), snakemake.params.stamp)
