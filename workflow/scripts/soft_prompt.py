from undertone.detect.soft_prompt import read_soft_prompt
from undertone.study.job import run

run(read_soft_prompt, snakemake)
