from undertone.lab.map import make_map
from undertone.study.job import run

run(make_map, snakemake)
