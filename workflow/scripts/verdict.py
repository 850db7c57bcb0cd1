from undertone.detect.verdict import write_verdict
from undertone.study.job import run

run(write_verdict, snakemake)
