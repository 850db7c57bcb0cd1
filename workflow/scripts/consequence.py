from undertone.detect.consequence import compare_consequences
from undertone.study.job import run

run(compare_consequences, snakemake)
