from undertone.pairs.transplant import transplant_vector
from undertone.study.job import run

run(transplant_vector, snakemake)
