from pathlib import Path

from undertone.data.prompts import make_prompts
from undertone.study.job import logged, settings

with logged(snakemake.log[0]):
    make_prompts(Path(snakemake.output.prompts), settings(snakemake)["prompts"], snakemake.params.stamp)
