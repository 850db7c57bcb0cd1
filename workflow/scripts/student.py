from undertone.students.student import train_student
from undertone.study.job import run

run(train_student, snakemake)
