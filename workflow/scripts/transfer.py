from undertone.compare.transfer import collect
from undertone.study.job import run

run(collect, snakemake)
