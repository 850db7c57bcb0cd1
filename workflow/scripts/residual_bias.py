from undertone.read.residual_bias import train_residual_biases
from undertone.study.job import run

run(train_residual_biases, snakemake)
