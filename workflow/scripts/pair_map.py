from undertone.pairs.pair_map import write_pair_map
from undertone.study.job import run

run(write_pair_map, snakemake)
