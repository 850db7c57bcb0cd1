from undertone.read.score import read_score
from undertone.study.job import run

run(read_score, snakemake)
