from undertone.detect.nulls import sample_nulls
from undertone.study.job import run

run(sample_nulls, snakemake)
