from pathlib import Path

from undertone.job import logged, scratch, settings
from undertone.model import make_model

with logged(snakemake.log[0]):
    stamp, record = snakemake.params.stamp, snakemake.output.record
    make_model(Path(record), settings(snakemake)["model"], stamp, scratch(record, stamp))
