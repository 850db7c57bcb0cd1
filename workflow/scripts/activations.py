from undertone.read.activations import read_activations
from undertone.study.job import run

run(read_activations, snakemake)
