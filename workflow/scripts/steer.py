from undertone.study.job import run
from undertone.teachers.steer import make_steered

run(make_steered, snakemake)
