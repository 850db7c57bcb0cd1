from undertone.pairs.similarity import make_similarity
from undertone.study.job import run

run(make_similarity, snakemake)
