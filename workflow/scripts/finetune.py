from pathlib import Path

from undertone.study.job import logged, scratch, settings
from undertone.teachers.finetune import make_finetuned

with logged(snakemake.log[0]):
    stamp, made = snakemake.params.stamp, snakemake.output.record
    make_finetuned(Path(snakemake.input.record), Path(made), settings(snakemake), stamp, scratch(made, stamp))
