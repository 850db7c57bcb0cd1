from undertone.lab.scaling import make_scaling
from undertone.study.job import run

run(make_scaling, snakemake)
