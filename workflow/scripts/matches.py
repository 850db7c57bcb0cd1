from undertone.pairs.matches import make_matches
from undertone.study.job import run

run(make_matches, snakemake)
