from undertone.detect.surface import read_surface
from undertone.study.job import run

run(read_surface, snakemake)
