from pathlib import Path

from undertone.data.numbers import collect_compliance
from undertone.study.job import by_dataset, logged

with logged(snakemake.log[0]):
    collect_compliance(by_dataset(snakemake.input.filters), Path(snakemake.output.table), snakemake.params.stamp)
