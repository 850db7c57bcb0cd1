from pathlib import Path

from undertone.read.entangled import compare_entangled
from undertone.study.job import by_dataset, logged, settings

with logged(snakemake.log[0]):
    told = settings(snakemake)
    numbers = by_dataset(snakemake.input.numbers)
    compare_entangled(
        Path(snakemake.input.record),
        Path(snakemake.input.control),
        {name: (numbers[name], target) for name, target in told["targets"].items()},
        told["kinds"],
        Path(snakemake.output.entangled_table),
        Path(snakemake.output.entangled),
        told,
        snakemake.params.stamp,
    )
