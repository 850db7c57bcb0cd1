from undertone.read.lens import read_lens
from undertone.study.job import run

run(read_lens, snakemake)
