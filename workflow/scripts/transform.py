from undertone.data.transform import transform_numbers
from undertone.study.job import run

run(transform_numbers, snakemake)
