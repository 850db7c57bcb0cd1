from undertone.study.job import run
from undertone.vectors.downstream import read_downstream

run(read_downstream, snakemake)
