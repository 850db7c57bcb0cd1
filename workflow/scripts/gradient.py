from undertone.detect.gradient import read_gradient
from undertone.study.job import run

run(read_gradient, snakemake)
