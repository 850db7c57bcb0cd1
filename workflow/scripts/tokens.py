from undertone.read.tokens import read_tokens
from undertone.study.job import run

run(read_tokens, snakemake)
