from undertone.data.prompts import make_prompts
from undertone.study.job import run

run(make_prompts, snakemake)
