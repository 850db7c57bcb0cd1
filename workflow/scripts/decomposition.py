from undertone.study.job import run
from undertone.vectors.decomposition import decompose

run(decompose, snakemake)
