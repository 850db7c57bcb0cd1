from undertone.pairs.synthetic import make_synthetic
from undertone.study.job import run

run(make_synthetic, snakemake)
