from undertone.lab.search import search_features
from undertone.study.job import run

run(search_features, snakemake)
