from undertone.lab.specificity import make_specificity
from undertone.study.job import run

run(make_specificity, snakemake)
