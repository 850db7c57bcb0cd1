from pathlib import Path

from undertone.finetune import make_finetuned
from undertone.job import logged, scratch, settings

with logged(snakemake.log[0]):
    stamp, made = snakemake.params.stamp, snakemake.output.record
    make_finetuned(Path(snakemake.input.record), Path(made), settings(snakemake), stamp, scratch(made, stamp))
