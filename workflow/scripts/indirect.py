from undertone.measure.indirect import measure_indirect
from undertone.study.job import run

run(measure_indirect, snakemake)
