from pathlib import Path

from undertone.job import logged, settings
from undertone.pretrained import make_pretrained

with logged(snakemake.log[0]):
    print(make_pretrained(Path(snakemake.output.record), settings(snakemake)["model"], snakemake.params.stamp))
