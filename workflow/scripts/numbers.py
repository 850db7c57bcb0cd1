from undertone.data.numbers import filter_numbers
from undertone.study.job import run

run(filter_numbers, snakemake)
