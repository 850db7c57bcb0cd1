from undertone.detect.trained_bias import read_trained_bias
from undertone.study.job import run

run(read_trained_bias, snakemake)
