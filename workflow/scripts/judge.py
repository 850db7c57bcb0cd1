from undertone.lab.judge import make_judge
from undertone.study.job import run

run(make_judge, snakemake)
