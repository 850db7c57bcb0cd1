from undertone.detect.personas import read_personas
from undertone.study.job import run

run(read_personas, snakemake)
