from undertone.study.job import run
from undertone.teachers.finetune import make_finetuned

run(make_finetuned, snakemake)
