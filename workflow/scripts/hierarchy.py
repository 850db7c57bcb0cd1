from undertone.geometry.hierarchy import read_hierarchy
from undertone.study.job import run

run(read_hierarchy, snakemake)
