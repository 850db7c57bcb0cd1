from undertone.lab.completeness import make_completeness
from undertone.study.job import run

run(make_completeness, snakemake)
