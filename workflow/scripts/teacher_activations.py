from undertone.read.activations import read_teacher_activations
from undertone.study.job import run

run(read_teacher_activations, snakemake)
