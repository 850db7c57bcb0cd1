from undertone.detect.matched import sample_matched
from undertone.study.job import run

run(sample_matched, snakemake)
