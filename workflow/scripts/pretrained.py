from pathlib import Path

from undertone.models.pretrained import make_pretrained
from undertone.study.job import logged, settings

with logged(snakemake.log[0]):
    print(make_pretrained(Path(snakemake.output.record), settings(snakemake)["model"], snakemake.params.stamp))
