from pathlib import Path

from undertone.models.model import make_model
from undertone.study.job import logged, scratch, settings

with logged(snakemake.log[0]):
    stamp, record = snakemake.params.stamp, snakemake.output.record
    make_model(Path(record), settings(snakemake)["model"], stamp, scratch(record, stamp))
