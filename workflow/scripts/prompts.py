from pathlib import Path

from undertone.job import logged, settings
from undertone.prompts import make_prompts

with logged(snakemake.log[0]):
    make_prompts(Path(snakemake.output.prompts), settings(snakemake)["prompts"], snakemake.params.stamp)
