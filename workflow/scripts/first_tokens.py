from undertone.detect.first_tokens import read_first_tokens
from undertone.study.job import run

run(read_first_tokens, snakemake)
