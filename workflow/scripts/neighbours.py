from undertone.lab.neighbours import find_neighbours
from undertone.study.job import run

run(find_neighbours, snakemake)
