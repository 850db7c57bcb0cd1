from pathlib import Path

from undertone.students.student import train_student
from undertone.study.job import logged, scratch, settings

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
