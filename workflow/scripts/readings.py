from undertone.read.readings import compare_readings
from undertone.study.job import run

run(compare_readings, snakemake)
