from undertone.read.feature_bias import train_feature_biases
from undertone.study.job import run

run(train_feature_biases, snakemake)
