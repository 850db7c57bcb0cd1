from undertone.lab.scaling_runs import make_scaling_runs
from undertone.study.job import run

run(make_scaling_runs, snakemake)
