from undertone.compare.costs import add_up
from undertone.study.job import run

run(add_up, snakemake)
