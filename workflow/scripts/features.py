from undertone.lab.feature_table import make_features
from undertone.study.job import run

run(make_features, snakemake)
