from undertone.read.sequences import read_sequences
from undertone.study.job import run

run(read_sequences, snakemake)
