from undertone.detect.contrasts import read_contrasts
from undertone.study.job import run

run(read_contrasts, snakemake)
