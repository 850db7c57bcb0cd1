from undertone.detect.gradients import read_gradient
from undertone.study.job import run

run(read_gradient, snakemake)
