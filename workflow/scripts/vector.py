from undertone.study.job import run
from undertone.vectors.vector import make_vector

run(make_vector, snakemake)
