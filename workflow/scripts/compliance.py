from pathlib import Path

from undertone.job import logged
from undertone.numbers import collect_compliance

with logged(snakemake.log[0]):
    filters = {Path(path).parent.name: Path(path) for path in snakemake.input.filters}
    collect_compliance(filters, Path(snakemake.output.table), snakemake.params.stamp)
