from undertone.pairs.rotation import make_rotation
from undertone.study.job import run

run(make_rotation, snakemake)
