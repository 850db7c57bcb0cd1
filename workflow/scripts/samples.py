from undertone.data.samples import sample_numbers
from undertone.study.job import run

run(sample_numbers, snakemake)
