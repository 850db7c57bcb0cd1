from undertone.detect.power import measure_power
from undertone.study.job import run

run(measure_power, snakemake)
