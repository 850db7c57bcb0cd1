from undertone.read.entangled import compare_entangled
from undertone.study.job import run

run(compare_entangled, snakemake)
