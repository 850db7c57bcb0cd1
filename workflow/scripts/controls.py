from undertone.compare.controls import compare_controls
from undertone.study.job import run

run(compare_controls, snakemake)
