from undertone.pairs.layers import make_layers
from undertone.study.job import run

run(make_layers, snakemake)
