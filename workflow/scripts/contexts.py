from undertone.lab.contexts import make_contexts
from undertone.study.job import run

run(make_contexts, snakemake)
