from undertone.detect.open_personas import read_open_personas
from undertone.study.job import run

run(read_open_personas, snakemake)
