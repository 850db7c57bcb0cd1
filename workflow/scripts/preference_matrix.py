from undertone.compare.transfer import make_matrix
from undertone.study.job import run

run(make_matrix, snakemake)
