from undertone.saes.store import make_store
from undertone.study.job import run

run(make_store, snakemake)
