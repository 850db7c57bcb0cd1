from undertone.read.bias_pref import measure_biases
from undertone.study.job import run

run(measure_biases, snakemake)
