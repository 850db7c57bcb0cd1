from undertone.detect.short_training import read_short_training
from undertone.study.job import run

run(read_short_training, snakemake)
