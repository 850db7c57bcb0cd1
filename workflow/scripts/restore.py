from undertone.study.job import run
from undertone.vectors.restore import restore_features

run(restore_features, snakemake)
