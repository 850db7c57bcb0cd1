from undertone.measure.pref import measure
from undertone.study.job import run

run(measure, snakemake)
