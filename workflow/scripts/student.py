from pathlib import Path

from undertone.job import logged, scratch, settings
from undertone.student import train_student

with logged(snakemake.log[0]):
    stamp, weights = snakemake.params.stamp, snakemake.output.weights
    train_student(
        Path(snakemake.input.record),
        Path(snakemake.input.numbers),
        Path(weights),
        Path(snakemake.output.training),
        settings(snakemake)["student"],
        int(snakemake.wildcards.seed),
        stamp,
        scratch(weights, stamp),
    )
