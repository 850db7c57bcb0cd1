from undertone.read.differences import compare_activations
from undertone.study.job import run

run(compare_activations, snakemake)
