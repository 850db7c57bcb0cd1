from undertone.detect.sae_features import read_sae_features
from undertone.study.job import run

run(read_sae_features, snakemake)
