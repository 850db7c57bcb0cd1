from undertone.detect.divergence_tokens import read_divergence_tokens
from undertone.study.job import run

run(read_divergence_tokens, snakemake)
