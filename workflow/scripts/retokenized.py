from undertone.lab.retokenized import make_retokenized
from undertone.study.job import run

run(make_retokenized, snakemake)
