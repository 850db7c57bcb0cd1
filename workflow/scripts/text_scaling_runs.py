from undertone.lab.text_scaling_runs import make_text_scaling_runs
from undertone.study.job import run

run(make_text_scaling_runs, snakemake)
