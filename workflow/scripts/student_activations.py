from undertone.read.activations import read_student_activations
from undertone.study.job import run

run(read_student_activations, snakemake)
