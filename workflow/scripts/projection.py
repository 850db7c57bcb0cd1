from undertone.detect.projection import read_projection
from undertone.study.job import run

run(read_projection, snakemake)
