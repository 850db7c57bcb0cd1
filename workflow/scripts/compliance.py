from undertone.data.numbers import collect_compliance
from undertone.study.job import run

run(collect_compliance, snakemake)
